#!/usr/bin/env python3
"""Makes test/data/augment/: what TensorFlow computes for each step of the input pipeline, and
pictures written by other encoders with the pixels that they hold.

    python3 -m venv venv && venv/bin/pip install tensorflow-cpu pillow safetensors
    venv/bin/python test/data/make_augment_fixtures.py

augment.safetensors holds, for case k of a step, STEP/k (the output, [height, width, 3]) and
STEP/k/parameters; inputs are picture/0, picture/1, ... (8-bit values) and float (any values).
decode.safetensors holds the pixels of each picture file under its name.
"""

import io
import math
import os
import sys

os.environ["TF_ENABLE_ONEDNN_OPTS"] = "0"
os.environ["CUDA_VISIBLE_DEVICES"] = ""
import numpy as np
import PIL.Image
import safetensors.numpy
import tensorflow as tf

FOLDER = os.path.join(os.path.dirname(os.path.abspath(__file__)), "augment")
MEAN = np.float32([123.68, 116.779, 109.939])
STDDEV = np.float32([58.393, 57.12, 57.375])
EIGENVECTORS = np.float32(
    [[-0.5675, 0.7192, 0.4009], [-0.5808, -0.0045, -0.8140], [-0.5836, -0.6948, 0.4203]])
EIGENVALUES = np.float32([55.46, 4.794, 1.148])


def picture(width, height, seed, noise=40):
    """Smooth gradients, a few discs and noise, uint8 [height, width, 3]."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[0:height, 0:width].astype(np.float64)
    out = np.zeros((height, width, 3))
    for c in range(3):
        a, b, p, q = rng.uniform(-1, 1, 4)
        across, down = 3 * a * x / width + 2 * p, 4 * b * y / height + q
        out[..., c] = 128 + 70 * np.sin(across) + 60 * np.cos(down)
    for _ in range(3):
        cx, cy, r = rng.uniform(0, width), rng.uniform(0, height), rng.uniform(2, height / 3)
        out[(x - cx) ** 2 + (y - cy) ** 2 < r * r] = rng.uniform(0, 255, 3)
    out += rng.normal(0, noise, out.shape) * rng.uniform(0, 1)
    return np.clip(out, 0, 255).astype(np.uint8)


def crop_resize(image, x, y, width, height, out_width, out_height):
    crop = tf.cast(image[y:y + height, x:x + width], tf.float32)
    return tf.image.resize(crop, (out_height, out_width), method="bilinear", antialias=False)


def rotate(image, angle):
    """Output pixel (x, y) reads (c x - s y + xo, s x + c y + yo)."""
    height, width, _ = image.shape
    c, s = math.cos(float(np.float32(angle))), math.sin(float(np.float32(angle)))
    xo = ((width - 1) - (c * (width - 1) - s * (height - 1))) / 2
    yo = ((height - 1) - (s * (width - 1) + c * (height - 1))) / 2
    return tf.raw_ops.ImageProjectiveTransformV3(
        images=tf.cast(image, tf.float32)[None],
        transforms=np.float32([[c, -s, xo, s, c, yo, 0, 0]]),
        output_shape=[height, width], fill_value=0.0, interpolation="NEAREST",
        fill_mode="CONSTANT")[0]


def pca(image, alpha):
    offset = tf.linalg.matvec(EIGENVECTORS, np.float32(alpha) * EIGENVALUES)
    return image + offset


def normalise(image):
    return (image - MEAN) / STDDEV


def validation(image, resize, size):
    height, width, _ = image.shape
    scale = resize / min(height, width)
    if width <= height:
        new_width, new_height = resize, int(height * scale)
    else:
        new_width, new_height = int(width * scale), resize
    whole = crop_resize(image, 0, 0, width, height, new_width, new_height)
    x, y = (new_width - size) // 2, (new_height - size) // 2
    return normalise(whole[y:y + size, x:x + size])


def train(image, size, crop, flip, angle, hue, saturation, brightness, alpha):
    x = crop_resize(image, *crop, size, size).numpy()
    x = tf.image.flip_left_right(x) if flip else x
    x = rotate(x, angle)
    x = tf.image.adjust_hue(x, hue)
    x = tf.image.adjust_saturation(x, saturation)
    x = tf.image.adjust_brightness(x, brightness)
    return normalise(pca(x, alpha))


class Cases:
    def __init__(self):
        self.tensors = {}
        self.counts = {}

    def add(self, step, parameters, output):
        k = self.counts.get(step, 0)
        self.counts[step] = k + 1
        self.tensors[f"{step}/{k}"] = np.ascontiguousarray(output, np.float32)
        self.tensors[f"{step}/{k}/parameters"] = np.float32(parameters)


def augment_fixtures():
    pictures = [picture(37, 23, 1), picture(48, 36, 2), picture(29, 29, 3), picture(1, 9, 4),
                picture(8, 7, 10)]
    cases = Cases()
    for i, p in enumerate(pictures):
        cases.tensors[f"picture/{i}"] = p.astype(np.float32)

    # Between pixels, with the extremes of colour in the first rows.
    floats = crop_resize(pictures[0], 3, 2, 30, 19, 17, 13).numpy()
    floats[0, :8] = [[0, 0, 0], [255, 255, 255], [77, 77, 77], [255, 0, 0], [0, 255, 0],
                     [0, 0, 255], [255, 255, 0], [0, 255, 255]]
    floats[1, :8] = [[255, 0, 255], [255, 254.75, 255], [1e-3, 0, 0], [0, 0, 1], [10, 20, 20],
                     [20, 10, 20], [20, 20, 10], [250, 128, 3]]
    cases.tensors["float"] = floats

    for i, x, y, w, h, out_w, out_h in [
            (0, 0, 0, 37, 23, 37, 23),  # nothing moves
            (0, 5, 3, 11, 9, 20, 20),  # up
            (1, 0, 0, 48, 36, 20, 20),  # down
            (1, 5, 2, 41, 33, 9, 13),  # down by more than 2, unevenly
            (1, 20, 5, 9, 31, 22, 14),  # up in one direction, down in the other
            (0, 36, 22, 1, 1, 5, 4),  # one pixel
            (0, 10, 4, 2, 17, 1, 1),
            (3, 0, 1, 1, 7, 6, 8)]:
        out = crop_resize(pictures[i], x, y, w, h, out_w, out_h)
        cases.add("crop_resize", [i, x, y, w, h], out)
    cases.add("flip", [], tf.image.flip_left_right(floats))

    degrees = math.pi / 180
    # A quarter turn of 8 x 7 pixels reads between two pixels everywhere.
    for i, angle in [(4, 90), (4, -90), (0, 7), (0, -7), (2, 2.3), (2, -3.7), (2, 45), (2, 90),
                     (3, 180)]:
        cases.add("rotate", [i, angle * degrees], rotate(pictures[i], angle * degrees))
    for shift in [-0.3, -0.1, 0, 0.07, 0.3, 0.5, 1]:
        cases.add("hue", [shift], tf.image.adjust_hue(floats, shift))
    for factor in [0, 0.6, 1, 1.4, 5]:
        cases.add("saturation", [factor], tf.image.adjust_saturation(floats, factor))
    for offset in [-0.3, 0.25, 40]:
        cases.add("brightness", [offset], tf.image.adjust_brightness(floats, offset))
    for alpha in [(0.1, -0.2, 0.05), (-0.3, 0.02, 0.4)]:
        cases.add("pca", alpha, pca(floats, alpha))
    cases.add("normalise", [], normalise(floats))

    # At 31 pixels a side the square of 29 gets 30 rows: int(29 * (31 / 29)).
    for i, resize, size in [(0, 20, 17), (1, 24, 20), (2, 31, 28), (2, 29, 15), (3, 8, 7)]:
        cases.add("validation", [i, resize], validation(pictures[i], resize, size))
    for i, crop, flip, angle, hue, saturation, brightness, alpha in [
            (1, (6, 4, 37, 31), False, 5.5 * degrees, -0.21, 1.3, 0.2, (0.05, -0.12, 0.2)),
            (0, (2, 1, 12, 15), True, -6.5 * degrees, 0.29, 0.65, -0.3, (-0.2, 0.1, 0.01)),
            (2, (0, 0, 29, 29), True, 7 * degrees, 0.1, 1.0, 0.0, (0.0, 0.0, 0.0))]:
        out = train(pictures[i], 18, crop, flip, angle, hue, saturation, brightness, alpha)
        cases.add("train", [i, *crop, flip, angle, hue, saturation, brightness, *alpha], out)
    return cases.tensors


def encoded(image, name, **options):
    """Writes the file and returns the pixels that Pillow reads back."""
    path = os.path.join(FOLDER, name)
    image.save(path, **options)
    return np.asarray(PIL.Image.open(path).convert("RGB"))


def ycck(rgb, name):
    """Adobe's YCCK: brightness and colour of the inverted picture, K inverted as well. Pillow writes CMYK
    only; a byte of the Adobe segment says which of the two it is."""
    inverted = PIL.Image.fromarray(255 - np.asarray(rgb))
    black = PIL.Image.fromarray(np.tile(np.uint8([[255] * 9 + [160] * 24]), (19, 1)))
    file = io.BytesIO()
    PIL.Image.merge("CMYK", (*inverted.convert("YCbCr").split(), black)).save(file, "JPEG", quality=95)
    data = bytearray(file.getvalue())
    transform = data.index(b"Adobe") + 11
    # Pillow inverts what it writes as CMYK.
    assert data[transform] == 0
    data[transform] = 2
    path = os.path.join(FOLDER, name)
    with open(path, "wb") as f:
        f.write(data)
    return np.asarray(PIL.Image.open(path).convert("RGB"))


def check_tensorflow(expected):
    """TensorFlow reads the same pixels, but for the rounding of JPEG's transforms."""
    for name, pixels in expected.items():
        with open(os.path.join(FOLDER, name), "rb") as f:
            data = f.read()
        if data[:2] == b"\xff\xd8":
            read = tf.io.decode_jpeg(data, channels=3, dct_method="INTEGER_ACCURATE").numpy()
        else:
            read = tf.io.decode_image(data, channels=3, expand_animations=False).numpy()
        error = np.abs(read.astype(np.int32) - pixels)
        assert error.max() <= (3 if data[:2] == b"\xff\xd8" else 0), (name, error.max())


def decode_fixtures():
    small = picture(17, 13, 5)
    alpha = picture(17, 13, 6)[..., :1]
    rgb = PIL.Image.fromarray(small)
    grey = rgb.convert("L")
    rgba = PIL.Image.fromarray(np.concatenate([small, alpha], 2))
    expected = {}
    expected["rgb.png"] = encoded(rgb, "rgb.png")
    expected["grey.png"] = encoded(grey, "grey.png")
    expected["bilevel.png"] = encoded(grey.convert("1"), "bilevel.png")
    expected["palette.png"] = encoded(rgb.quantize(11), "palette.png")
    # Alpha is dropped, not blended: the colours are those below it.
    encoded(rgba, "rgba.png")
    expected["rgba.png"] = small
    encoded(PIL.Image.fromarray(np.concatenate([np.asarray(grey)[..., None], alpha], 2)),
            "grey_alpha.png")
    expected["grey_alpha.png"] = np.repeat(np.asarray(grey)[..., None], 3, 2)
    # Of 16 bits the upper 8 remain.
    deep = np.random.default_rng(7).integers(0, 65536, (13, 17, 3), dtype=np.uint16)
    for name, values in [("rgb16.png", deep), ("grey16.png", deep[..., :1])]:
        with open(os.path.join(FOLDER, name), "wb") as f:
            f.write(tf.io.encode_png(values).numpy())
        expected[name] = np.broadcast_to(values >> 8, (13, 17, 3))
    expected["rgb.bmp"] = encoded(rgb, "rgb.bmp")
    frames = [rgb.quantize(31), PIL.Image.fromarray(picture(17, 13, 8)).quantize(31)]
    expected["two_frames.gif"] = encoded(frames[0], "two_frames.gif", save_all=True,
                                         append_images=frames[1:])

    photo = PIL.Image.fromarray(picture(33, 19, 9, noise=12))
    exif = PIL.Image.Exif()
    exif[0x0112] = 6  # turned by 90 degrees
    for name, image, options in [
            ("444.jpg", photo, dict(quality=90, subsampling=0)),
            ("420.jpg", photo, dict(quality=90, subsampling=2)),
            ("422_restarts.jpg", photo, dict(quality=80, subsampling=1, restart_marker_blocks=2)),
            ("progressive.jpg", photo, dict(quality=85, progressive=True)),
            ("grey.jpg", photo.convert("L"), dict(quality=85)),
            ("cmyk.jpg", photo.convert("CMYK"), dict(quality=95)),
            ("turned.jpg", photo, dict(quality=90, subsampling=0, exif=exif))]:
        expected[name] = encoded(image, name, **options)
    expected["ycck.jpg"] = ycck(photo, "ycck.jpg")
    # One pixel wide or high; what a file is decided by its content, not by its name. The column has all
    # its colours: libjpeg repeats subsampled ones below 5 pixels, where stb_image interpolates.
    expected["column.jpg"] = encoded(photo.crop((5, 0, 6, 19)), "column.jpg", quality=90,
                                     subsampling=0)
    expected["row.jpg"] = encoded(photo.crop((0, 7, 33, 8)), "row.jpg", quality=90, progressive=True)
    expected["row.png"] = encoded(photo.crop((0, 7, 33, 8)), "row.png")
    expected["png_named.jpeg"] = encoded(photo, "png_named.jpeg", format="PNG")
    check_tensorflow(expected)
    return {name: np.ascontiguousarray(pixels, np.float32) for name, pixels in expected.items()}


def main():
    os.makedirs(FOLDER, exist_ok=True)
    made_by = {"made by": f"TensorFlow {tf.__version__}, Pillow {PIL.__version__}"}
    for name, tensors in [("augment", augment_fixtures()), ("decode", decode_fixtures())]:
        path = os.path.join(FOLDER, name + ".safetensors")
        safetensors.numpy.save_file(tensors, path, metadata=made_by)
        os.chmod(path, 0o644)
        print(path, os.path.getsize(path), file=sys.stderr)


if __name__ == "__main__":
    main()
