#!/usr/bin/env python3
"""What a user of the programs may rely on. Usage: cli_test.py FOLDER_OF_PROGRAMS [unittest arguments]."""
import csv
import json
import math
import os
import pathlib
import re
import resource
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import time
import unittest

BIN = pathlib.Path(sys.argv[1]).resolve()
SMALL = ["--width", "0.25", "--depth", "0.3", "--resolution", "32", "--classes", "4"]
RECIPE = ["--batch", "8", "--warmup-steps", "2", "--lr", "0.01", "--threads", "2"]


def run(program, *args, **options):
    return subprocess.run([BIN / program, *map(str, args)], capture_output=True, text=True, timeout=300, **options)


def limit_file_size(size):
    """A full disk: writes beyond `size` bytes of a file fail."""

    def limit():
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))

    return limit


def write_idx(folder, name, count, label_of=lambda i: i % 4):
    """Pictures of 12 x 12 whose brightness pattern depends on the label."""
    images, labels = folder / f"{name}-images", folder / f"{name}-labels"
    pixels = bytearray()
    for i in range(count):
        for y in range(12):
            for x in range(12):
                pixels.append((label_of(i) * 60 + (x * y * (i + 3)) % 50) % 256)
    images.write_bytes(struct.pack(">IIII", 0x803, count, 12, 12) + bytes(pixels))
    labels.write_bytes(struct.pack(">II", 0x801, count) + bytes(label_of(i) for i in range(count)))
    return images, labels


def crc32c(data):
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
    return crc ^ 0xFFFFFFFF


def masked(data):
    crc = crc32c(data)
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


def frame(data):
    length = struct.pack("<Q", len(data))
    return length + struct.pack("<I", masked(length)) + data + struct.pack("<I", masked(data))


def field(number, data):
    return bytes([number << 3 | 2]) + varint(len(data)) + data


def varint(value):
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    return bytes(out) + bytes([value])


def example(**features):
    body = b""
    for key, value in features.items():
        if isinstance(value, bytes):
            feature = field(1, field(1, value))
        else:
            feature = field(3, field(1, varint(value)))
        body += field(1, field(1, key.encode()) + field(2, feature))
    return field(1, body)


class Case(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.folder = pathlib.Path(tempfile.mkdtemp(prefix="mbconv-cli-"))
        cls.addClassCleanup(shutil.rmtree, cls.folder)
        for name, count in (("train", 40), ("val", 10)):
            images, labels = write_idx(cls.folder, name, count)
            done = run("records", "from-idx", "--images", images, "--labels", labels, "--out", cls.folder, "--name", name, "--shards", 2 if name == "train" else 1)
            assert done.returncode == 0, done.stderr
        cls.train_data, cls.val_data = f"{cls.folder}/train-*.tfrecord", f"{cls.folder}/val-*.tfrecord"
        cls.a_shard = cls.folder / "train-00000-of-00002.tfrecord"

    def out(self):
        return pathlib.Path(tempfile.mkdtemp(dir=self.folder)) / "run"

    def train(self, out, *args, data=None, **options):
        return run("train", "--train-data", data or self.train_data, "--out", out, *SMALL, *RECIPE, *args, **options)

    def fails(self, done, status, *texts):
        self.assertEqual(done.returncode, status, done.stdout + done.stderr)
        lines = [l for l in done.stderr.splitlines() if l and not re.match("step |warning|picture |record ", l)]
        self.assertEqual(len(lines), 1, done.stderr)
        for text in texts:
            self.assertIn(str(text), lines[0])

    def rows(self, out, split=None):
        with open(out / "log.csv") as file:
            return [r for r in csv.DictReader(file) if split in (None, r["split"])]


class Training(Case):
    def test_a_run_leaves_everything_it_promises(self):
        out = self.out()
        done = self.train(out, "--val-data", self.val_data, "--steps", 7, "--log-every", 1)
        self.assertEqual(done.returncode, 0, done.stderr)
        for name in ("log.csv", "config.json", "last.safetensors", "last.state.safetensors", "best.safetensors"):
            self.assertTrue((out / name).is_file(), name)
        self.assertEqual(len(list(out.glob("events.out.tfevents.*"))), 1)
        train, val = self.rows(out, "train"), self.rows(out, "val")
        self.assertEqual([int(r["step"]) for r in train], list(range(1, 8)))
        # 40 records in batches of 8: an epoch ends after step 5, the run after step 7.
        self.assertEqual([int(r["step"]) for r in val], [5, 7])
        self.assertEqual(list(train[0]), "step,epoch,split,loss,cross_entropy,lr,top1,top5,images_per_second,seconds,input_wait,bad_records,bad_list".split(","))
        self.assertEqual([float(r["lr"]) for r in train[:2]], [0.0, 0.005])
        self.assertGreater(float(train[0]["loss"]), float(train[0]["cross_entropy"]))
        for row in train + val:
            self.assertTrue(0 <= float(row["input_wait"]) <= 1, row)
            self.assertEqual((row["bad_records"], row["bad_list"]), ("0", ""))
        self.assertIn("input wait", done.stderr)
        self.assertRegex(done.stdout, r"epoch 2: .* input wait \d+\.\d %")
        self.assertIn("ISA level", done.stdout)
        self.assertIn("warmup-steps", done.stdout)
        self.assertIn("memory:", done.stdout)
        self.assertIn("left", done.stderr)
        config = json.loads((out / "config.json").read_text())
        self.assertEqual(config["options"]["batch"], "8")

    def test_eval_prints_what_the_last_validation_logged(self):
        out = self.out()
        self.assertEqual(self.train(out, "--val-data", self.val_data, "--steps", 3, "--mean", "90,100,110").returncode, 0)
        row = self.rows(out, "val")[-1]
        done = run("eval", "--weights", out / "last.safetensors", "--data", self.val_data, "--batch", 3)
        self.assertEqual(done.returncode, 0, done.stderr)
        last = done.stdout.splitlines()[-1]
        match = re.fullmatch(r"top-1 (\d\.\d{4}) top-5 (\d\.\d{4}) loss (\d+\.\d{4}) images (\d+)", last)
        self.assertIsNotNone(match, last)
        self.assertEqual(match.group(4), "10")
        self.assertEqual(float(match.group(1)), round(float(row["top1"]), 4))
        self.assertAlmostEqual(float(match.group(3)), float(row["cross_entropy"]), delta=2e-4)

    def test_results_do_not_depend_on_the_number_of_threads(self):
        weights = []
        for threads in (1, 2, 5):
            out = self.out()
            self.assertEqual(self.train(out, "--steps", 4, "--threads", threads, "--augment", "recipe").returncode, 0)
            weights.append((out / "last.safetensors").read_bytes())
        self.assertEqual(weights[0], weights[1])
        self.assertEqual(weights[0], weights[2])

    def test_a_resumed_run_has_the_bits_of_an_uninterrupted_one(self):
        whole, broken = self.out(), self.out()
        common = ("--val-data", self.val_data, "--log-every", 1)
        self.assertEqual(self.train(whole, "--steps", 9, *common).returncode, 0)
        process = subprocess.Popen([BIN / "train", "--train-data", self.train_data, "--out", broken, *SMALL, *map(str, RECIPE), "--steps", "9",
                                    "--checkpoint-every-steps", "3", *map(str, common)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        while process.poll() is None and not (broken / "last.safetensors").exists():
            time.sleep(0.001)
        process.kill()
        process.wait()
        # Only --out is needed; the rest is taken from config.json.
        done = run("train", "--resume", "--out", broken)
        self.assertEqual(done.returncode, 0, done.stderr)
        for name in ("last.safetensors", "last.state.safetensors"):
            self.assertEqual((whole / name).read_bytes(), (broken / name).read_bytes(), name)
        steps = [int(r["step"]) for r in self.rows(broken, "train")]
        self.assertEqual(steps, list(range(1, 10)))

    def test_interrupt_finishes_the_step_and_writes_a_checkpoint(self):
        out = self.out()
        process = subprocess.Popen([BIN / "train", "--train-data", self.train_data, "--out", out, *SMALL, *map(str, RECIPE), "--steps", "100000", "--log-every", "1"],
                                   stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        for line in process.stderr:
            if line.startswith("step 3/"):
                process.send_signal(signal.SIGINT)
                break
        rest = process.stderr.read()
        process.stderr.close()
        self.assertEqual(process.wait(), 130)
        self.assertIn("interrupted after step", rest)
        step = int(re.search(r"after step (\d+)", rest).group(1))
        self.assertEqual(int(self.rows(out)[-1]["step"]), step)
        done = self.train(out, "--resume", "--steps", step + 2)
        self.assertEqual(done.returncode, 0, done.stderr)

    def test_a_folder_that_holds_a_run_is_refused_without_resume(self):
        out = self.out()
        self.assertEqual(self.train(out, "--steps", 1).returncode, 0)
        before = (out / "last.safetensors").read_bytes()
        self.fails(self.train(out, "--steps", 2), 1, out, "--resume")
        self.assertEqual(before, (out / "last.safetensors").read_bytes())
        self.fails(self.train(self.out(), "--resume"), 1, "cannot resume")

    def test_weights_and_state_of_different_steps_are_refused(self):
        out, other = self.out(), self.out()
        self.assertEqual(self.train(out, "--steps", 2).returncode, 0)
        self.assertEqual(self.train(other, "--steps", 3).returncode, 0)
        shutil.copy(other / "last.state.safetensors", out / "last.state.safetensors")
        self.fails(self.train(out, "--resume", "--steps", 5), 1, "step 2", "step 3")

    def test_resuming_with_another_batch_is_refused(self):
        out = self.out()
        self.assertEqual(self.train(out, "--steps", 2).returncode, 0)
        self.fails(self.train(out, "--resume", "--steps", 5, "--batch", 4), 1, "batch")

    def test_a_loss_that_is_not_finite_stops_before_last_is_overwritten(self):
        out = self.out()
        done = self.train(out, "--steps", 50, "--lr", 1e8, "--checkpoint-every-steps", 1, "--log-every", 1)
        self.fails(done, 1, "loss of step")
        kept = run("eval", "--weights", out / "last.safetensors", "--data", self.val_data)
        self.assertEqual(kept.returncode, 0, kept.stderr)
        self.assertTrue(math.isfinite(float(re.search(r"loss (\S+) images", kept.stdout).group(1))), kept.stdout)

    def test_init_takes_all_but_the_classifier_of_another_number_of_classes(self):
        first, second = self.out(), self.out()
        self.assertEqual(self.train(first, "--steps", 2).returncode, 0)
        done = run("train", "--train-data", self.train_data, "--out", second, *RECIPE, "--init", first / "last.safetensors", "--classes", 6, "--steps", 1)
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertIn("all but the classifier", done.stdout)
        done = run("eval", "--weights", second / "last.safetensors", "--data", self.val_data)
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertIn("6 classes", done.stdout)

    def test_a_warm_up_longer_than_the_run_only_warns(self):
        done = self.train(self.out(), "--steps", 1, "--warmup-steps", 10)
        self.assertEqual(done.returncode, 0)
        self.assertIn("warm-up", done.stderr)

    def test_every_level_trains_to_the_same_loss(self):
        losses = []
        for isa in ("generic", "avx2", "avx512"):
            out = self.out()
            done = self.train(out, "--steps", 3, "--log-every", 1, "--isa", isa)
            if done.returncode == 2 and ("not available" in done.stderr or "not compiled" in done.stderr):
                continue
            self.assertEqual(done.returncode, 0, done.stderr)
            losses.append([float(r["cross_entropy"]) for r in self.rows(out)])
        for other in losses[1:]:
            for a, b in zip(losses[0], other):
                self.assertAlmostEqual(a, b, delta=1e-4 * a)


class BadInput(Case):
    def damaged(self, data):
        path = pathlib.Path(tempfile.mkdtemp(dir=self.folder)) / "damaged.tfrecord"
        path.write_bytes(data)
        return path

    def refused(self, data, *texts, status=1):
        path = self.damaged(data)
        out = self.out()
        self.fails(self.train(out, "--steps", 6, data=path), status, path, *texts)
        self.assertEqual(run("records", "verify", "--data", path).returncode, 1)

    def test_missing_records(self):
        self.fails(self.train(self.out(), data="/nonexistent/*.tfrecord"), 1, "/nonexistent/*.tfrecord")

    def test_an_empty_file(self):
        self.refused(b"", "empty")

    def test_a_text_file(self):
        self.refused(b"These are not the records you are looking for.\n" * 9, "TFRecord")

    def test_a_truncated_file(self):
        whole = self.a_shard.read_bytes()
        self.refused(whole[:-7], "record 19", "offset")

    def test_a_flipped_bit_in_the_data(self):
        data = bytearray(self.a_shard.read_bytes())
        data[40] ^= 1
        self.refused(bytes(data), "record 0", "offset 0", "CRC")

    def test_a_flipped_bit_in_a_length(self):
        data = bytearray(self.a_shard.read_bytes())
        second = 16 + struct.unpack("<Q", data[:8])[0]
        data[second] ^= 1
        self.refused(bytes(data), "record 1", f"offset {second}", "length")

    def test_a_length_past_the_end(self):
        length = struct.pack("<Q", 1 << 40)
        self.refused(self.a_shard.read_bytes() + length + struct.pack("<I", masked(length)), "record 20")

    def test_an_example_without_image(self):
        self.refused(frame(example(label=1)), "record 0", "image")

    def test_an_image_that_cannot_be_decoded(self):
        self.refused(frame(example(image=b"\x89PNG\r\n\x1a\nbroken", label=1)) * 8, "record", "offset")

    def test_a_label_out_of_range(self):
        path = self.folder / "label"
        path.mkdir()
        images, labels = write_idx(path, "x", 8, lambda i: 3 if i != 5 else 9)
        run("records", "from-idx", "--images", images, "--labels", labels, "--out", path, "--name", "x")
        file = path / "x-00000-of-00001.tfrecord"
        self.fails(self.train(self.out(), "--steps", 3, data=file), 1, file, "record 5", "label 9")

    def test_existing_checkpoints_stay_when_data_breaks_off(self):
        good = self.a_shard.read_bytes()
        size = 16 + struct.unpack("<Q", good[:8])[0]
        data = good + frame(example(image=b"nothing", label=0)) * 4
        path = self.damaged(data)
        out = self.out()
        done = self.train(out, "--steps", 9, "--shuffle", "off", "--checkpoint-every-steps", 1, data=path)
        self.fails(done, 1, path, "record 20")
        self.assertGreater(size, 16)
        kept = run("eval", "--weights", out / "last.safetensors", "--data", self.val_data)
        self.assertEqual(kept.returncode, 0, kept.stderr)

    def test_options(self):
        out = self.out()
        cases = [
            (["--bacth", 8], "--batch"),
            (["--lr", "abc"], "--lr"),
            (["--lr", "nan"], "--lr"),
            (["--batch", "8x"], "--batch"),
            (["--batch", 0], "--batch"),
            (["--resolution", 0], "resolution"),
            (["--width", -1], "width"),
            (["--model", "b9"], "b9"),
            (["--activation", "tanh"], "tanh"),
            (["--isa", "sse9"], "sse9"),
            (["--shuffle", "maybe"], "--shuffle"),
            (["--steps"], "--steps"),
            (["stray"], "stray"),
        ]
        for args, text in cases:
            with self.subTest(args=args):
                self.fails(self.train(out, *args), 2, text)
                self.assertFalse(out.exists())
        self.fails(run("train"), 2, "--train-data")
        self.fails(run("eval", "--data", self.val_data), 2, "--weights")
        self.fails(run("records"), 2)
        self.fails(run("records", "from-idx", "--imgaes", "x"), 2)

    def test_an_output_folder_that_cannot_be_made(self):
        self.fails(self.train("/dev/null/run", "--steps", 1), 1, "/dev/null/run")

    def test_a_full_disk_leaves_existing_checkpoints(self):
        out = self.out()
        self.assertEqual(self.train(out, "--steps", 2).returncode, 0)
        before = {p.name: p.read_bytes() for p in out.glob("*.safetensors")}
        done = self.train(out, "--resume", "--steps", 6, preexec_fn=limit_file_size(50000))
        self.fails(done, 1, str(out))
        self.assertEqual(before, {p.name: p.read_bytes() for p in out.glob("*.safetensors")})
        self.assertEqual(self.train(out, "--resume", "--steps", 6).returncode, 0)

    def test_weights_that_do_not_fit(self):
        out = self.out()
        self.assertEqual(self.train(out, "--steps", 1).returncode, 0)
        done = run("eval", "--weights", out / "last.safetensors", "--data", self.val_data, "--model", "b1")
        self.fails(done, 1, "last.safetensors", "shape")
        broken = self.damaged((out / "last.safetensors").read_bytes()[:-100])
        self.fails(run("eval", "--weights", broken, "--data", self.val_data), 1, broken)
        self.fails(run("eval", "--weights", "/nonexistent", "--data", self.val_data), 1, "/nonexistent")


class Records(Case):
    def test_inspect_and_verify_good_files(self):
        done = run("records", "inspect", "--data", self.train_data)
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertIn("40 records in 2 files", done.stdout)
        self.assertIn("4 labels from 0 to 3", done.stdout)
        done = run("records", "verify", "--data", self.train_data)
        self.assertEqual(done.returncode, 0, done.stdout)
        self.assertIn("40 good records, 0 damaged", done.stdout)

    def test_from_folder_takes_one_class_a_sub_folder(self):
        pictures = self.folder / "pictures"
        png = (pathlib.Path(__file__).parent / "data/augment/rgb.png").read_bytes()
        for name in ("zebra", "ant"):
            (pictures / name).mkdir(parents=True)
            for i in range(3):
                (pictures / name / f"{i}.png").write_bytes(png)
        out = self.folder / "from-folder"
        done = run("records", "from-folder", "--folder", pictures, "--out", out, "--name", "x", "--shards", 2)
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertEqual((out / "x-classes.txt").read_text(), "ant\nzebra\n")
        done = run("records", "inspect", "--data", f"{out}/x-*.tfrecord")
        self.assertIn("2 labels from 0 to 1", done.stdout)
        (pictures / "ant" / "broken.jpg").write_bytes(b"nothing")
        done = run("records", "from-folder", "--folder", pictures, "--out", self.folder / "other")
        self.fails(done, 1, "broken.jpg")

    def test_idx_files_that_do_not_fit_are_refused(self):
        images, _ = write_idx(self.folder, "a", 5)
        _, labels = write_idx(self.folder, "b", 6)
        out = self.folder / "idx"
        self.fails(run("records", "from-idx", "--images", images, "--labels", labels, "--out", out), 1, "5", "6")
        self.fails(run("records", "from-idx", "--images", labels, "--labels", labels, "--out", out), 1, labels)

    def test_help_is_complete_and_grouped(self):
        text = run("train", "--help").stdout
        for group in ("Data", "Records", "Model", "Recipe", "Augmentation", "Run", "Machine"):
            self.assertIn(f"\n{group}:", text)
        for option in ("--train-data", "--checkpoint-every-steps", "--expand-at-ratio-1", "--label-offset"):
            self.assertIn(option, text)
        self.assertEqual(run("train", "--help").returncode, 0)
        for command in ("from-idx", "from-folder", "inspect", "verify"):
            self.assertEqual(run("records", command, "--help").returncode, 0)


if __name__ == "__main__":
    unittest.main(argv=sys.argv[:1] + sys.argv[2:], verbosity=2)
