#!/usr/bin/env python3
"""Times the input pipeline beside TensorFlow's own of the same recipe: same records, same cores, in turns.

    python3 -m venv venv && venv/bin/pip install tensorflow-cpu
    venv/bin/python bench/versus_tfdata.py --bench build/bench/input_bench --threads 1

Rounds of input_bench and tf.data alternate, as the machine's speed drifts, and each ratio is taken within
its round; the median of the rounds is what counts. Three kinds of work are compared: decoding alone,
augmentation of decoded pictures alone, and the whole way from records to the network's input.
"""

import argparse
import json
import math
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time

KINDS = {"decode": ("decode_images_per_second", "decode_cpu_ms"),
         "augment": ("augment_images_per_second", "augment_cpu_ms"),
         "all": ("images_per_second", "cpu_ms")}
MEAN = [123.68, 116.779, 109.939]
STDDEV = [58.393, 57.12, 57.375]
EIGENVECTORS = [[-0.5675, 0.7192, 0.4009], [-0.5808, -0.0045, -0.8140], [-0.5836, -0.6948, 0.4203]]
EIGENVALUES = [55.46, 4.794, 1.148]
BATCH = 64


def parse_arguments():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--bench", default="build/bench/input_bench", help="the program input_bench")
    parser.add_argument("--data", help="glob of TFRecord files; else input_bench makes pictures")
    parser.add_argument("--pictures", type=int, default=128, help="at most to take of them")
    parser.add_argument("--resolution", type=int, default=224)
    parser.add_argument("--threads", type=int, default=1, help="and cores that both may use")
    parser.add_argument("--seconds", type=float, default=3, help="for each kind of work in a round")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", help="file for the figures")
    return parser.parse_args()


def load_tensorflow(threads):
    os.environ["CUDA_VISIBLE_DEVICES"] = ""
    os.environ["TF_CPP_MIN_LOG_LEVEL"] = "2"
    import tensorflow as tf

    tf.config.threading.set_intra_op_parallelism_threads(threads)
    tf.config.threading.set_inter_op_parallelism_threads(threads)
    return tf


class Pipeline:
    """The recipe on tf.data, as a user of TensorFlow writes it."""

    def __init__(self, tf, files, pictures, resolution, threads):
        self.tf, self.files, self.pictures = tf, files, pictures
        self.resolution, self.threads = resolution, threads
        first = next(iter(tf.data.TFRecordDataset(files[:1])))
        keys = tf.train.Example.FromString(first.numpy()).features.feature.keys()
        self.key = "image/encoded" if "image/encoded" in keys else "image"

    def decode(self, record):
        tf = self.tf
        features = {self.key: tf.io.FixedLenFeature([], tf.string)}
        encoded = tf.io.parse_single_example(record, features)[self.key]
        return tf.io.decode_jpeg(encoded, channels=3)

    def crop_resize(self, image):
        tf = self.tf
        height, width = tf.shape(image)[0], tf.shape(image)[1]
        whole_height, whole_width = tf.cast(height, tf.float32), tf.cast(width, tf.float32)
        aspect = tf.random.uniform([], 0.75, 1 / 0.75)
        area = tf.random.uniform([], 0.08, 1)
        side = tf.sqrt(whole_height * whole_width * area / aspect)
        crop_width = tf.clip_by_value(tf.cast(side, tf.int32), 1, width)
        crop_height = tf.clip_by_value(tf.cast(side * aspect, tf.int32), 1, height)
        x = tf.random.uniform([], 0, width - crop_width + 1, tf.int32)
        y = tf.random.uniform([], 0, height - crop_height + 1, tf.int32)
        crop = tf.cast(image[y:y + crop_height, x:x + crop_width], tf.float32)
        return tf.image.resize(crop, [self.resolution, self.resolution])

    def rotate(self, image):
        tf = self.tf
        most = 7 * math.pi / 180
        angle = tf.random.uniform([], -most, most)
        c, s, last = tf.cos(angle), tf.sin(angle), float(self.resolution - 1)
        xo, yo = (last - (c * last - s * last)) / 2, (last - (s * last + c * last)) / 2
        transform = tf.stack([c, -s, xo, s, c, yo, 0.0, 0.0])[None]
        return tf.raw_ops.ImageProjectiveTransformV3(
            images=image[None], transforms=transform, output_shape=[self.resolution] * 2,
            fill_value=0.0, interpolation="NEAREST", fill_mode="CONSTANT")[0]

    def augment(self, image):
        tf = self.tf
        image = tf.image.random_flip_left_right(self.crop_resize(image))
        image = tf.image.random_hue(self.rotate(image), 0.3)
        image = tf.image.random_saturation(image, 0.6, 1.4)
        image = tf.image.random_brightness(image, 0.3)
        alpha = tf.random.normal([3], stddev=0.1)
        image += tf.linalg.matvec(tf.constant(EIGENVECTORS), alpha * tf.constant(EIGENVALUES))
        return (image - MEAN) / STDDEV

    def dataset(self, kind):
        tf = self.tf
        calls = dict(num_parallel_calls=self.threads, deterministic=False)
        data = tf.data.TFRecordDataset(self.files).take(self.pictures)
        if kind == "augment":
            data = data.map(self.decode, **calls).cache().repeat().map(self.augment, **calls)
        elif kind == "decode":
            # One value a picture, so that it is decoding that is timed and not the copies into a batch.
            data = data.repeat().map(lambda record: tf.shape(self.decode(record)), **calls)
        else:
            data = data.repeat().map(lambda record: self.augment(self.decode(record)), **calls)
        options = tf.data.Options()
        options.threading.private_threadpool_size = self.threads
        options.threading.max_intra_op_parallelism = 1
        return data.batch(BATCH, drop_remainder=True).prefetch(1).with_options(options)

    def measure(self, kind, seconds):
        """Images a second, and milliseconds of CPU time an image."""
        batches = iter(self.dataset(kind))
        for _ in range(math.ceil(self.pictures / BATCH) + 1):  # traced, cached, threads running
            next(batches)
        images, cpu, start = 0, cpu_seconds(), time.perf_counter()
        while time.perf_counter() - start < seconds:
            next(batches)
            images += BATCH
        return images / (time.perf_counter() - start), 1e3 * (cpu_seconds() - cpu) / images


def cpu_seconds():
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def run_bench(args, data):
    with tempfile.NamedTemporaryFile(suffix=".json") as figures:
        # Its three kinds share the time in proportions of 2 : 1 : 2.
        subprocess.run([args.bench, "--data", data, "--pictures", str(args.pictures), "--resolution",
                        str(args.resolution), "--threads", str(args.threads), "--seconds",
                        str(2.5 * args.seconds), "--json", figures.name], check=True,
                       stdout=subprocess.DEVNULL)
        return json.load(open(figures.name))


def compare(args, data, pipeline):
    rounds = {kind: [] for kind in KINDS}
    for number in range(args.rounds):
        ours = run_bench(args, data)
        for kind, (rate_key, cpu_key) in KINDS.items():
            rate, cpu = pipeline.measure(kind, args.seconds)
            rounds[kind].append({"ours": ours[rate_key], "tf": rate, "ratio": ours[rate_key] / rate,
                                 "ours_cpu_ms": ours[cpu_key], "tf_cpu_ms": cpu,
                                 "cpu_ratio": cpu / ours[cpu_key]})
            r = rounds[kind][-1]
            print("round %d %-8s ours %8.1f images/s, tf.data %8.1f: %5.2f times; CPU time %.3f and %.3f ms:"
                  " %5.2f times" % (number, kind, r["ours"], r["tf"], r["ratio"], r["ours_cpu_ms"],
                                    r["tf_cpu_ms"], r["cpu_ratio"]), flush=True)
    return rounds


def main():
    args = parse_arguments()
    cores = sorted(os.sched_getaffinity(0))
    if args.threads > len(cores):
        sys.exit("%d threads, but only %d cores" % (args.threads, len(cores)))
    os.sched_setaffinity(0, cores[:args.threads])
    tf = load_tensorflow(args.threads)
    with tempfile.TemporaryDirectory() as folder:
        data = args.data
        if data is None:
            data = os.path.join(folder, "made.tfrecord")
            subprocess.run([args.bench, "--write", data, "--pictures", str(args.pictures)], check=True)
        files = sorted(tf.io.gfile.glob(data))
        if not files:
            sys.exit("%s matches no file" % data)
        rounds = compare(args, data, Pipeline(tf, files, args.pictures, args.resolution, args.threads))
    result = {"threads": args.threads, "resolution": args.resolution, "tensorflow": tf.__version__}
    for kind, values in rounds.items():
        result[kind] = {key: statistics.median(v[key] for v in values) for key in values[0]}
        print("%-8s median of %d rounds: %.2f times tf.data, by CPU time %.2f times"
              % (kind, args.rounds, result[kind]["ratio"], result[kind]["cpu_ratio"]))
    if args.json:
        with open(args.json, "w") as out:
            json.dump(result, out, indent=2)
            out.write("\n")


if __name__ == "__main__":
    main()
