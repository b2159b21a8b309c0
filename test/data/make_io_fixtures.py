#!/usr/bin/env python3
"""Makes test/data/io/: small files in the formats of io, written by TensorFlow and by the
safetensors package.

    python3 -m venv venv && venv/bin/pip install tensorflow-cpu safetensors ml_dtypes
    venv/bin/python test/data/make_io_fixtures.py

plain.tfrecord, gzip.tfrecord   the same three Examples with the keys of recipe sgd-cosine
members.tfrecord                gzip as well, one member for each record
zlib.tfrecord                   two Examples with the keys of the common ImageNet conversion
tensors.safetensors             F32, F64, I64, F16 and BF16 tensors, a scalar, metadata
"""

import gzip
import os
import struct

os.environ["CUDA_VISIBLE_DEVICES"] = ""
import ml_dtypes
import numpy as np
import safetensors.numpy
import tensorflow as tf

FOLDER = os.path.join(os.path.dirname(os.path.abspath(__file__)), "io")


def feature(value):
    if isinstance(value, bytes):
        return tf.train.Feature(bytes_list=tf.train.BytesList(value=[value]))
    if isinstance(value, int):
        return tf.train.Feature(int64_list=tf.train.Int64List(value=[value]))
    if value and isinstance(value[0], int):
        return tf.train.Feature(int64_list=tf.train.Int64List(value=value))
    return tf.train.Feature(float_list=tf.train.FloatList(value=value))


def example(**features):
    features = {key.replace("__", "/"): feature(value) for key, value in features.items()}
    return tf.train.Example(
        features=tf.train.Features(feature=features)).SerializeToString(deterministic=True)


def png(width, height):
    pixels = np.arange(width * height * 3, dtype=np.uint8).reshape(height, width, 3)
    return tf.io.encode_png(pixels).numpy()


def write(name, records, compression):
    options = tf.io.TFRecordOptions(compression_type=compression)
    with tf.io.TFRecordWriter(os.path.join(FOLDER, name), options) as writer:
        for record in records:
            writer.write(record)


def write_records():
    records = [
        example(image=png(2 + i, 3), height=3, width=2 + i, channels=3, colorspace=b"RGB",
                img_format=b"PNG", label=[7, 0, 300][i], bbox_xmin=[0.25, 0.5][:i],
                bbox_xmax=[1.0, -2.5][:i], text=b"", filename=b"%d.png" % i,
                extra=[-1, 0, 1, 127, 128, 2**63 - 1, -2**63])
        for i in range(3)
    ]
    write("plain.tfrecord", records, "")
    write("gzip.tfrecord", records, "GZIP")
    imagenet = [
        example(image__encoded=png(4, 1 + i), image__class__label=[1, 1000][i],
                image__class__synset=b"n01440764") for i in range(2)
    ]
    write("zlib.tfrecord", imagenet, "ZLIB")
    with open(os.path.join(FOLDER, "plain.tfrecord"), "rb") as source, \
            open(os.path.join(FOLDER, "members.tfrecord"), "wb") as target:
        while header := source.read(12):
            frame = header + source.read(struct.unpack("<Q", header[:8])[0] + 4)
            target.write(gzip.compress(frame, mtime=0))


def write_tensors():
    f16 = np.array([0x0000, 0x8000, 0x3C00, 0xC000, 0x7BFF, 0x0400, 0x0001, 0x83FF, 0x7C00, 0xFC00,
                    0x7E00, 0x3555], np.uint16).view(np.float16)
    bf16 = np.array([0x0000, 0x8000, 0x3F80, 0xC040, 0x7F7F, 0x0001, 0x7F80, 0x7FC0],
                    np.uint16).view(ml_dtypes.bfloat16)
    safetensors.numpy.save_file(
        {
            "conv.weight": np.arange(24, dtype=np.float32).reshape(2, 3, 2, 2) / 8 - 1,
            "bn.num_batches_tracked": np.array(-12345678901, np.int64),
            "labels": np.array([0, -1, 2**62], np.int64),
            "double": np.array([[np.pi], [-1e300]]),
            "half": f16.reshape(3, 4),
            "brain": bf16.reshape(2, 4),
            "empty": np.zeros((0, 4), np.float32),
        }, os.path.join(FOLDER, "tensors.safetensors"),
        metadata={"format": "pt", "note": 'quotes " and \u00e9'})


if __name__ == "__main__":
    os.makedirs(FOLDER, exist_ok=True)
    write_records()
    write_tensors()
