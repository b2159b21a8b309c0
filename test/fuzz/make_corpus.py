#!/usr/bin/env python3
"""Writes the seeds of the fuzz targets to test/fuzz/corpus. Needs Pillow. Run from the project's root."""
import gzip
import io
import pathlib
import struct
import sys
import zlib

from PIL import Image

sys.path.insert(0, "test")
sys.argv[1:] = ["."]
from cli_test import example, field, frame, varint

CORPUS = pathlib.Path("test/fuzz/corpus")


def write(target, name, data):
    (CORPUS / target).mkdir(parents=True, exist_ok=True)
    (CORPUS / target / name).write_bytes(data)


def framing():
    two = frame(b"one") + frame(b"")
    broken = bytearray(frame(b"one") + frame(b"second") + frame(b"third"))
    broken[21] ^= 1
    write("framing", "two", two)
    write("framing", "damaged_length", bytes(broken))
    write("framing", "damaged_data", two[:13] + b"X" + two[14:])
    write("framing", "cut", two[:-5])
    write("framing", "gzip", gzip.compress(two, mtime=0))
    write("framing", "gzip_cut", gzip.compress(two, mtime=0)[:-6])
    write("framing", "members", gzip.compress(two[:9], mtime=0) + gzip.compress(two[9:], mtime=0))
    write("framing", "zlib", zlib.compress(two))
    write("framing", "foreign", b"foreign bytes" + two)


def examples():
    packed = field(1, field(1, field(1, b"label") + field(2, field(3, field(1, varint(3) + varint(1 << 63))))))
    floats = field(1, field(1, field(1, b"bbox") + field(2, field(2, field(1, struct.pack("<2f", 0.5, float("nan")))))))
    loose = field(1, field(1, field(1, b"f") + field(2, field(2, b"\x0d" + struct.pack("<f", 1.5)))))
    write("example", "ours", example(image=b"bytes", label=3))
    write("example", "theirs", example(**{"image/encoded": b"bytes", "image/class/label": 7}))
    write("example", "packed", packed)
    write("example", "floats", floats)
    write("example", "loose", loose)
    write("example", "unknown_fields", example(label=1) + b"\x48\x05" + b"\x51" + bytes(8) + b"\x5d" + bytes(4))
    write("example", "empty_feature", field(1, field(1, field(1, b"key") + field(2, b""))))


def decode():
    image = Image.new("RGB", (9, 7))
    image.putdata([(x * 28 % 256, y * 36 % 256, (x * y) % 256) for y in range(7) for x in range(9)])

    def save(name, picture, **options):
        out = io.BytesIO()
        picture.save(out, **options)
        write("decode", name, out.getvalue())

    save("rgb.jpg", image, format="JPEG", quality=60)
    save("progressive.jpg", image, format="JPEG", quality=60, progressive=True)
    save("grey.jpg", image.convert("L"), format="JPEG", quality=60)
    save("cmyk.jpg", image.convert("CMYK"), format="JPEG", quality=60)
    save("rgb.png", image, format="PNG")
    save("palette.png", image.convert("P"), format="PNG")
    save("alpha.png", image.convert("RGBA"), format="PNG")
    save("grey16.png", Image.frombytes("I;16", (3, 2), bytes(range(12))), format="PNG")
    save("rgb.bmp", image, format="BMP")
    save("palette.gif", image.convert("P"), format="GIF")


framing()
examples()
decode()
