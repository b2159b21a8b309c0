#!/usr/bin/env python3
"""What a run keeps, refuses and logs: resuming, diverging, checkpoints. Usage: as cli_test.py."""
import json
import math
import pathlib
import signal
import struct
import subprocess
import sys
import tempfile
import unittest

from cli_test import BIN, RECIPE, SMALL, Case, example, frame, run, write_idx

PICTURE = (pathlib.Path(__file__).parent / "data/augment/rgb.png").read_bytes()


def read_header(path):
    data = path.read_bytes()
    size = struct.unpack("<Q", data[:8])[0]
    return json.loads(data[8 : 8 + size]), data[8 + size :]


def metadata(path):
    return read_header(path)[0]["__metadata__"]


def rewrite(path, to, edit):
    """Copies a safetensors file; `edit` changes its header and its bytes."""
    header, data = read_header(path)
    data = bytearray(data)
    edit(header, data)
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    to.write_bytes(struct.pack("<Q", len(text)) + text + data)
    return to


def accuracy(done):
    """(top-1, top-5, loss) of the last line of eval."""
    words = done.stdout.splitlines()[-1].split()
    return tuple(float(words[i]) for i in (1, 3, 5))


class RunCase(Case):
    def succeeds(self, done):
        self.assertEqual(done.returncode, 0, done.stdout + done.stderr)
        return done

    def eval(self, weights, *args, data=None):
        return run("eval", "--weights", weights, "--data", data or self.val_data, *args)

    def validations(self, out):
        return [int(r["step"]) for r in self.rows(out, "val")]

    def drop_validations(self, out):
        log = out / "log.csv"
        log.write_text("".join(l for l in log.read_text().splitlines(True) if ",val," not in l))


class Resuming(RunCase):
    def test_the_network_is_that_of_the_checkpoint(self):
        first, out = self.out(), self.out()
        self.succeeds(self.train(first, "--model", "b1", "--width", "0.25000012345", "--expand-at-ratio-1", "--steps", 1))
        self.succeeds(run("train", "--train-data", self.train_data, "--out", out, *RECIPE, "--init", first / "last.safetensors", "--steps", 1))
        before = metadata(out / "last.safetensors")
        options = json.loads((out / "config.json").read_text())["options"]
        self.assertEqual((options["model"], options["width"], options["expand-at-ratio-1"]), ("b1", "0.25000012345", "true"))
        self.succeeds(run("train", "--resume", "--out", out, "--steps", 2))
        after = metadata(out / "last.safetensors")
        self.assertEqual({**before, "step": "2"}, after)
        self.assertEqual({**options, "steps": "2", "resume": "true"}, json.loads((out / "config.json").read_text())["options"])

    def test_the_level_is_that_of_the_run_unless_given_anew(self):
        out = self.out()
        self.succeeds(self.train(out, "--steps", 1, "--isa", "generic"))
        self.assertIn("ISA level generic", self.succeeds(run("train", "--resume", "--out", out, "--steps", 2)).stdout)
        config = json.loads((out / "config.json").read_text())
        config["options"]["isa"] = "avx9"
        (out / "config.json").write_text(json.dumps(config))
        self.fails(run("train", "--resume", "--out", out, "--steps", 3), 1, "avx9", "give --isa")
        self.succeeds(run("train", "--resume", "--out", out, "--steps", 3, "--isa", "generic"))

    def test_an_epoch_without_its_validation_gets_it(self):
        out = self.out()
        self.succeeds(self.train(out, "--val-data", self.val_data, "--steps", 5))
        self.drop_validations(out)
        self.succeeds(run("train", "--resume", "--out", out, "--steps", 7))
        self.assertEqual(self.validations(out), [5, 7])
        # A finished run has nothing to add.
        self.succeeds(run("train", "--resume", "--out", out))
        self.assertEqual(self.validations(out), [5, 7])

    def test_an_epoch_gets_its_validation_where_bad_records_stretch_its_last_batch(self):
        # Of 37 records in their order the first 4 are bad, so that batch 5 takes sample 36 of the first epoch and, after
        # 4 bad ones, 41 to 47 of the second.
        data, out = self.folder / "stretched.tfrecord", self.out()
        bad = frame(example(image=b"nothing", label=0))
        data.write_bytes(bad * 4 + b"".join(frame(example(image=PICTURE, label=i % 4)) for i in range(33)))
        self.succeeds(self.train(out, "--val-data", self.val_data, "--steps", 5, "--shuffle", "off", "--on-bad-record", "skip", data=data))
        self.drop_validations(out)
        self.succeeds(run("train", "--resume", "--out", out, "--steps", 7))
        self.assertEqual([(int(r["step"]), int(r["epoch"])) for r in self.rows(out, "val")], [(5, 1), (7, 2)])

    def test_an_interrupt_ends_a_validation_which_comes_when_the_run_goes_on(self):
        out = self.out()
        images, labels = write_idx(self.folder, "many", 4000)
        self.succeeds(run("records", "from-idx", "--images", images, "--labels", labels, "--out", self.folder, "--name", "many"))
        command = ["--train-data", self.train_data, "--val-data", f"{self.folder}/many-*.tfrecord", "--out", out, *SMALL, *RECIPE, "--steps", 7, "--log-every", 1]
        process = subprocess.Popen([BIN / "train", *map(str, command)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for line in process.stderr:
            if line.startswith("step 5/"):
                process.send_signal(signal.SIGINT)
                break
        process.communicate()
        self.assertEqual(process.returncode, 130)
        self.assertEqual(metadata(out / "last.safetensors")["step"], "5")
        self.assertEqual(self.validations(out), [])
        self.succeeds(run("train", "--resume", "--out", out))
        self.assertEqual(self.validations(out), [5, 7])

    def test_a_run_without_a_checkpoint_leaves_its_folder_free(self):
        out, bad = self.out(), self.folder / "bad.tfrecord"
        bad.write_bytes(frame(example(image=b"nothing", label=0)) * 8)
        self.fails(self.train(out, "--steps", 2, data=bad), 1, "record")
        self.succeeds(self.train(out, "--steps", 2))
        self.assertEqual([int(r["step"]) for r in self.rows(out)], [2])

    def test_checkpoints_are_not_overwritten_by_a_new_run(self):
        for name in ("last.safetensors", "last.state.safetensors", "best.safetensors"):
            out = self.out()
            out.mkdir()
            (out / name).write_bytes(b"precious")
            self.fails(self.train(out, "--val-data", self.val_data, "--steps", 1), 1, out, name)
            self.assertEqual((out / name).read_bytes(), b"precious")
            self.assertEqual(len(list(out.iterdir())), 1)

    def test_a_run_that_cannot_begin_leaves_no_folder(self):
        out = self.out()
        self.fails(self.train(out, data="/nonexistent/*.tfrecord"), 1)
        self.assertFalse(out.exists())
        self.fails(self.train(out, "--init", "/nonexistent"), 1)
        self.assertFalse(out.exists())


class Diverging(RunCase):
    def test_weights_without_a_finite_loss_are_not_written(self):
        out = self.out()
        self.fails(self.train(out, "--val-data", self.val_data, "--steps", 2, "--lr", 1e8), 1, "loss of step 2")
        self.assertEqual(list(out.glob("*.safetensors")), [])

    def test_a_validation_loss_that_is_not_finite_stops_before_best_is_written(self):
        # Of grey pictures a huge filter makes zeros, of others infinities.
        start, out = self.out(), self.out()
        self.succeeds(self.train(start, "--steps", 1))

        def enlarge(header, data):
            begin, end = header["conv_stem.weight"]["data_offsets"]
            for i in range(begin, end, 4):
                struct.pack_into("<f", data, i, math.copysign(2e37, struct.unpack_from("<f", data, i)[0]))

        weights = rewrite(start / "last.safetensors", self.folder / "huge.safetensors", enlarge)
        images, labels = write_idx(self.folder, "grey", 8)
        images.write_bytes(images.read_bytes()[:16] + bytes([128]) * (8 * 12 * 12))
        self.succeeds(run("records", "from-idx", "--images", images, "--labels", labels, "--out", self.folder, "--name", "grey"))
        done = self.train(out, "--init", weights, "--val-data", self.val_data, "--steps", 1, "--weight-decay", 0, "--augment", "none",
                          "--mean", "128,128,128", "--stddev", "1,1,1", data=f"{self.folder}/grey-*.tfrecord")
        self.fails(done, 1, "validation loss after step 1")
        self.assertEqual(sorted(p.name for p in out.glob("*.safetensors")), ["last.safetensors", "last.state.safetensors"])
        self.assertEqual(self.validations(out), [])

    def test_eval_of_such_weights_fails(self):
        out = self.out()
        self.succeeds(self.train(out, "--steps", 1))

        def spoil(header, data):
            begin = header["classifier.bias"]["data_offsets"][0]
            data[begin : begin + 4] = struct.pack("<f", math.nan)

        weights = rewrite(out / "last.safetensors", out / "nan.safetensors", spoil)
        self.fails(self.eval(weights), 1, weights, "nan")


class Logging(RunCase):
    """Nine classes, of which the training data show one and the validation data the other eight: the
    better the training, the worse the validation."""

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.one, cls.others = cls.folder / "one", cls.folder / "others"
        for folder, count, label_of in ((cls.one, 24, lambda i: 0), (cls.others, 16, lambda i: 1 + i % 8)):
            folder.mkdir()
            images, labels = write_idx(folder, "x", count, label_of)
            assert run("records", "from-idx", "--images", images, "--labels", labels, "--out", folder, "--name", "x").returncode == 0

    def test_rows_say_what_happened(self):
        out, lr, warmup, steps = self.out(), 0.02, 12, 16
        self.succeeds(self.train(out, "--classes", 9, "--val-data", f"{self.others}/*.tfrecord", "--steps", steps, "--lr", lr, "--warmup-steps", warmup,
                                 "--log-every", 2, "--augment", "none", data=f"{self.one}/*.tfrecord"))
        train, val = self.rows(out, "train"), self.rows(out, "val")
        self.assertEqual([int(r["step"]) for r in train], list(range(2, steps + 1, 2)))
        for row in train:
            done = int(row["step"]) - 1
            cosine = lr * (1 + math.cos(math.pi * done / steps)) / 2
            self.assertAlmostEqual(float(row["lr"]), lr * done / warmup if done < warmup else cosine, delta=1e-8)
            self.assertEqual(int(row["epoch"]), done // 3 + 1)  # 24 records in batches of 8
        # The training data are learnt: on the way a label is sometimes among the first five and not the first.
        self.assertTrue(any(float(r["top1"]) < float(r["top5"]) for r in train))
        self.assertEqual([(int(r["step"]), int(r["epoch"])) for r in val], [(3, 1), (6, 2), (9, 3), (12, 4), (15, 5), (16, 6)])
        self.assertTrue(any(float(r["top1"]) < float(r["top5"]) for r in val))

        best = max(val, key=lambda r: float(r["top1"]))  # the first of equals
        self.assertLess(float(val[-1]["top1"]), float(best["top1"]))
        self.assertEqual(metadata(out / "best.safetensors")["step"], best["step"])
        for name, row in (("best", best), ("last", val[-1])):
            top1, top5, loss = accuracy(self.eval(out / f"{name}.safetensors", data=f"{self.others}/*.tfrecord"))
            self.assertEqual((top1, top5), (round(float(row["top1"]), 4), round(float(row["top5"]), 4)))
            self.assertAlmostEqual(loss, float(row["cross_entropy"]), delta=2e-4)

    def test_the_best_checkpoint_is_remembered_by_a_resumed_run(self):
        out = self.out()
        self.succeeds(self.train(out, "--val-data", self.val_data, "--steps", 2))
        log = out / "log.csv"
        lines = [l.split(",") for l in log.read_text().splitlines()]
        for line in lines:
            if line[2] == "val":
                line[6] = "0.99"
        log.write_text("\n".join(",".join(l) for l in lines) + "\n")
        before = (out / "best.safetensors").read_bytes()
        self.succeeds(run("train", "--resume", "--out", out, "--steps", 4))
        self.assertEqual(self.validations(out), [2, 4])
        self.assertEqual(before, (out / "best.safetensors").read_bytes())

    def test_every_step_is_counted(self):
        out = self.out()
        self.succeeds(self.train(out, "--steps", 3))
        header, data = read_header(out / "last.safetensors")
        counters = [struct.unpack_from("<q", data, t["data_offsets"][0])[0] for name, t in header.items() if name.endswith("num_batches_tracked")]
        self.assertEqual(set(counters), {3})


class Checkpoints(RunCase):
    def test_the_name_of_its_own_model_changes_nothing(self):
        out, second = self.out(), self.out()
        self.succeeds(self.train(out, "--steps", 1))
        weights = out / "last.safetensors"
        self.assertEqual(accuracy(self.succeeds(self.eval(weights))), accuracy(self.succeeds(self.eval(weights, "--model", "b0"))))
        done = run("train", "--train-data", self.train_data, "--out", second, *RECIPE, "--init", weights, "--model", "b0", "--steps", 1)
        self.assertIn("32 x 32 pixels", self.succeeds(done).stdout)

    def test_a_file_without_classifier_is_named(self):
        out = self.out()
        self.succeeds(self.train(out, "--steps", 1))
        weights = rewrite(out / "last.safetensors", self.folder / "headless.safetensors", lambda header, _: header.update({"classifier.xxxx": header.pop("classifier.bias")}))
        self.fails(self.eval(weights), 1, weights, "classifier.bias")
        self.fails(self.train(self.out(), "--init", weights), 1, weights, "classifier.bias")

    def records(self, name, label_key, offset):
        path = self.folder / f"{name}.tfrecord"
        image_key = "image/encoded" if "/" in label_key else "image"
        path.write_bytes(b"".join(frame(example(**{image_key: PICTURE, label_key: i % 4 + offset})) for i in range(12)))
        return path

    def agree(self, out, data):
        row = self.rows(out, "val")[-1]
        self.assertAlmostEqual(accuracy(self.succeeds(self.eval(out / "last.safetensors", data=data)))[2], float(row["cross_entropy"]), delta=2e-4)

    def test_labels_are_counted_as_in_the_validation_of_the_run(self):
        # From 0 in training and from 1 in validation, as the keys say.
        data, out = self.records("from1", "image/class/label", 1), self.out()
        self.succeeds(self.train(out, "--val-data", data, "--steps", 2))
        self.agree(out, data)
        # An offset that the run was told holds for its checkpoint.
        data, out = self.records("from3", "label", 3), self.out()
        self.succeeds(self.train(out, "--val-data", data, "--label-offset", 3, "--steps", 2, data=data))
        self.agree(out, data)


class Options(RunCase):
    def test_messages_say_what_was_expected(self):
        cases = [
            (["--mean", "1,2"], "--mean", "three"),
            (["--mean", "1,2,3,4"], "--mean", "three"),
            (["--mean", "1,nan,3"], "--mean", "finite"),
            (["--stddev", "1,2,x"], "--stddev", "three"),
            (["--stddev", "1,0,1"], "--stddev", "above 0"),
            (["--seed", -1], "--seed", "at least 0"),
            (["--seed", "18446744073709551616"], "--seed", "expected at least 0"),
            (["--steps", 1.5], "--steps", "expected at least 0"),
            (["--batch", 1.5], "--batch", "expected 1 to 1048576"),
            (["--batch", "010"], "--batch", "expected 1 to 1048576"),
            (["--classes", "many"], "--classes", "expected 1 to"),
            (["--width", "wide"], "--width", "expected 0 to 100"),
            (["--threads", 0], "--threads", "1 to 4096"),
            (["--init", "x", "--resume"], "--init"),
        ]
        out = self.out()
        self.succeeds(self.train(out, "--steps", 1))
        for args, *texts in cases:
            with self.subTest(args=args):
                self.fails(self.train(out if "--resume" in args else self.out(), *args), 2, *texts)
        self.succeeds(self.train(self.out(), "--steps", 1, "--mean", "1,2,4", "--mean", "1,2.5,3", "--seed", "18446744073709551615"))

    def test_options_that_ask_for_too_much_memory_are_named(self):
        out = self.out()
        self.fails(self.train(out, "--batch", 1048576, "--resolution", 224), 1, "out of memory", "--batch", "--resolution")
        self.assertFalse(out.exists())

    def test_output_that_cannot_be_written_is_a_failure(self):
        out = self.out()
        self.succeeds(self.train(out, "--steps", 1))
        with open("/dev/full", "w") as full:
            for command in (["eval", "--weights", out / "last.safetensors", "--data", self.val_data], ["eval", "--help"], ["records", "inspect", "--data", self.val_data]):
                done = subprocess.run([BIN / command[0], *command[1:]], stdout=full, stderr=subprocess.PIPE, text=True)
                self.assertEqual(done.returncode, 1, command)
                self.assertIn("standard output", done.stderr)

    def test_shards_without_a_record_are_refused(self):
        images, labels = write_idx(self.folder, "few", 3)
        pictures, out = pathlib.Path(tempfile.mkdtemp(dir=self.folder)), self.out()
        (pictures / "ant").mkdir()
        (pictures / "ant" / "0.png").write_bytes(PICTURE)
        self.fails(run("records", "from-idx", "--images", images, "--labels", labels, "--out", out, "--shards", 4), 2, "--shards", "4", "3")
        self.fails(run("records", "from-folder", "--folder", pictures, "--out", out, "--shards", 2), 2, "--shards", "2", "1")
        self.assertFalse(out.exists())
        self.succeeds(run("records", "from-idx", "--images", images, "--labels", labels, "--out", out, "--shards", 3))


if __name__ == "__main__":
    unittest.main(argv=sys.argv[:1] + sys.argv[2:], verbosity=2)
