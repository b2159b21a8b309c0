#!/usr/bin/env python3
"""What a user of `records` may rely on. Usage: cli_records_test.py FOLDER_OF_PROGRAMS [unittest arguments]."""
import json
import pathlib
import re
import struct
import sys
import unittest

from cli_data_test import DataCase
from cli_test import example, frame, limit_file_size, run

PICTURES = pathlib.Path(__file__).resolve().parent / "data" / "augment"


def png_size(path):
    data = path.read_bytes()
    assert data.startswith(b"\x89PNG\r\n\x1a\n")
    return struct.unpack(">II", data[16:24])


class Commands(DataCase):
    def test_a_misspelt_command_or_option_is_named_with_what_was_expected(self):
        self.fails(run("records", "verfy", "--data", "x"), 2, "unexpected argument verfy", "from-folder", "verify")
        self.fails(run("records", "verify", "--dat", "x"), 2, "unknown option --dat; did you mean --data?")
        self.fails(run("records"), 2, "records --help")


class FromFolder(DataCase):
    def pictures(self):
        folder = self.new_folder()
        for name in ("zebra", "ant", "bee"):
            (folder / name).mkdir()
            for i in range(7):
                (folder / name / f"{i}.png").write_bytes((PICTURES / "rgb.png").read_bytes())
        return folder

    def make(self, pictures, *args):
        out = self.new_folder() / "out"
        done = run("records", "from-folder", "--folder", pictures, "--out", out, "--shards", 2, *args)
        self.assertEqual(done.returncode, 0, done.stderr)
        return out, done

    def test_files_do_not_depend_on_the_number_of_threads(self):
        pictures = self.pictures()
        outs = [self.make(pictures, "--threads", t)[0] for t in (1, 2, 5)]
        first = {p.name: p.read_bytes() for p in outs[0].iterdir()}
        self.assertEqual(len(first), 3)
        self.assertEqual(first["train-classes.txt"], b"ant\nbee\nzebra\n")
        for out in outs[1:]:
            self.assertEqual({p.name: p.read_bytes() for p in out.iterdir()}, first)

    def test_progress_is_shown_in_lines(self):
        _, done = self.make(self.pictures())
        self.assertRegex(done.stderr, r"picture 21/21\n")
        self.assertIn("wrote 21 records of 3 classes to 2 files", done.stdout)

    def test_resize_makes_the_shorter_side_smaller_and_never_larger(self):
        pictures = self.pictures()
        width, height = png_size(PICTURES / "rgb.png")
        shorter = min(width, height)
        for side in (shorter // 2, shorter * 2):
            out, _ = self.make(pictures, "--resize", side)
            text = run("records", "inspect", "--data", f"{out}/*.tfrecord").stdout
            match = re.search(r"largest: (\d+) x (\d+)", text)
            self.assertEqual(min(int(match.group(1)), int(match.group(2))), min(side, shorter))
            self.assertIn("PNG 21", text)
            self.assertEqual(run("records", "verify", "--data", f"{out}/*.tfrecord").returncode, 0)

    def test_a_picture_that_cannot_be_decoded_is_named_and_leaves_nothing(self):
        pictures = self.pictures()
        (pictures / "bee" / "3.png").write_bytes(b"nothing")
        out = self.new_folder() / "out"
        self.fails(run("records", "from-folder", "--folder", pictures, "--out", out), 1, "bee/3.png")
        self.assertEqual(list(out.iterdir()), [])

    def test_a_full_disk_is_an_error(self):
        out = self.new_folder() / "out"
        done = run("records", "from-folder", "--folder", self.pictures(), "--out", out, preexec_fn=limit_file_size(1000))
        self.fails(done, 1, out)


class Inspect(DataCase):
    def test_keys_labels_formats_sizes_and_names(self):
        names = self.new_folder() / "names.txt"
        names.write_text("ant\nbee\ncat\nzebra\n")
        done = run("records", "inspect", "--data", self.train_data, "--class-names", names)
        self.assertEqual(done.returncode, 0, done.stderr)
        for text in ("40 records in 2 files", "image: 1 bytes", "label: 1 integers", "4 labels from 0 to 3", "1 (bee): 10", "PNG 40", "median: 12 x 12"):
            self.assertIn(text, done.stdout)
        names.write_text("ant\nbee\n")
        self.fails(run("records", "inspect", "--data", self.train_data, "--class-names", names), 1, names, "2 class names")

    def test_sample_pictures_are_written_as_png(self):
        out = self.new_folder() / "samples"
        done = run("records", "inspect", "--data", self.train_data, "--samples", 4, "--samples-out", out)
        self.assertEqual(done.returncode, 0, done.stderr)
        # Record n of 40 lies in shard n / 20 as its 2 (n % 20) + n / 20th picture, labelled modulo 4.
        self.assertEqual(sorted(p.name for p in out.iterdir()), ["record-0-label-0.png", "record-10-label-0.png", "record-20-label-1.png", "record-30-label-1.png"])
        for path in out.iterdir():
            self.assertEqual(png_size(path), (12, 12))

    def test_a_sample_that_cannot_be_decoded_is_named_and_the_others_are_written(self):
        png = re.search(rb"\x89PNG.*?IEND....", self.a_shard.read_bytes(), re.S).group(0)
        data = self.folder / "undecodable"
        broken = png.replace(b"IDAT\x78", b"IDAT\x00")
        self.assertNotEqual(broken, png)
        data.write_bytes(b"".join(frame(example(image=i, label=1)) for i in (png, broken, png)))
        done = run("records", "inspect", "--data", data, "--samples", 3, "--samples-out", self.folder / "decodable")
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertRegex(done.stdout, r"no sample of .*record 1 at offset \d+: cannot decode the picture")
        self.assertEqual(len(list((self.folder / "decodable").iterdir())), 2)

    def test_bad_records_are_counted_not_hidden(self):
        folder, _ = self.damaged_data()
        done = run("records", "inspect", "--data", f"{folder}/*")
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertIn("5 of them bad", done.stdout)
        nothing = self.new_folder() / "x"
        nothing.write_bytes(frame(example(image=b"x", label=1)))
        self.fails(run("records", "inspect", "--data", nothing), 1, nothing, "record 0")


class Verify(DataCase):
    def test_the_report_names_every_damaged_record(self):
        folder, bad = self.damaged_data()
        report = self.new_folder() / "report.json"
        outputs = []
        for threads in (1, 3):
            done = run("records", "verify", "--data", f"{folder}/*", "--json", report, "--threads", threads)
            self.assertEqual(done.returncode, 1)
            outputs.append((done.stdout, report.read_text()))
        self.assertEqual(outputs[0], outputs[1])
        self.assertIn("35 good records, 5 damaged", done.stdout)
        found = json.loads(report.read_text())
        self.assertEqual([found[k] for k in ("files", "records", "good", "bad")], [2, 40, 35, 5])
        self.assertEqual([(int(f"{number:05}-of" in d["file"]), d["record"]) for (number, _, _), d in zip(bad, found["damaged"])], [(1, r) for _, r, _ in bad])
        for entry, (_, _, what) in zip(found["damaged"], bad):
            self.assertEqual("expected_crc" in entry, "CRC" in what)
            if "CRC" in what:
                self.assertNotEqual(entry["expected_crc"], entry["found_crc"])
            self.assertGreaterEqual(entry["offset"], 0)

    def test_good_files_and_labels_out_of_range(self):
        report = self.new_folder() / "report.json"
        args = ("records", "verify", "--data", self.train_data, "--json", report)
        done = run(*args)
        self.assertEqual(done.returncode, 0, done.stdout)
        self.assertEqual(json.loads(report.read_text()), {"files": 2, "records": 40, "good": 40, "bad": 0, "damaged": []})
        done = run(*args, "--classes", 3)
        self.assertEqual(done.returncode, 1)
        self.assertIn("the label 3 lies outside [0, 3)", done.stdout)
        self.assertEqual(json.loads(report.read_text())["bad"], 10)

    def test_a_report_that_cannot_be_written_is_an_error(self):
        self.fails(run("records", "verify", "--data", self.train_data, "--json", self.folder / "none" / "x.json"), 1, "none")


class Show(DataCase):
    def show(self, *args, status=0):
        out = self.new_folder() / "x.png"
        done = run("records", "show", "--data", self.train_data, "--resolution", 20, "--out", out, *args)
        self.assertEqual(done.returncode, status, done.stdout + done.stderr)
        return (out.read_bytes(), done.stdout.replace(str(out), "OUT")) if status == 0 else done

    def test_the_picture_is_a_function_of_record_epoch_and_seed(self):
        picture, text = self.show("--epoch", 1, "--index", 7, "--seed", 3)
        self.assertEqual(self.show("--epoch", 1, "--index", 7, "--seed", 3), (picture, text))
        self.assertRegex(text, r"^record 7 \(.*train-00000-of-00002.tfrecord: record 7 at offset \d+\), label 2, sample \d+ of epoch 1: OUT$")
        for other in (("--epoch", 2, "--index", 7, "--seed", 3), ("--epoch", 1, "--index", 8, "--seed", 3), ("--epoch", 1, "--index", 7, "--seed", 4)):
            self.assertNotEqual(self.show(*other)[0], picture)

    def test_a_sample_is_the_record_at_its_place_of_the_order(self):
        seen = set()
        for sample in (0, 5, 39):
            picture, text = self.show("--epoch", 2, "--sample", sample)
            record = re.search(r"record (\d+) \(", text).group(1)
            self.assertIn(f"sample {sample} of epoch 2", text)
            self.assertEqual(self.show("--epoch", 2, "--index", record), (picture, text))
            seen.add(record)
        self.assertEqual(len(seen), 3)
        self.assertIn("record 5 (", self.show("--sample", 5, "--shuffle", "off")[1])

    def test_without_augmentation_every_epoch_shows_the_same(self):
        a, b = (self.show("--augment", "none", "--index", 3, "--epoch", e)[0] for e in (0, 5))
        self.assertEqual(a, b)

    def test_mistakes(self):
        self.fails(self.show(status=2), 2, "--index")
        self.fails(self.show("--index", 1, "--sample", 1, status=2), 2, "--index")
        self.fails(self.show("--index", 40, status=1), 1, "record 40", "40 records")
        self.fails(self.show("--index", 0, "--epoch", -1, status=2), 2, "--epoch")


if __name__ == "__main__":
    unittest.main(argv=sys.argv[:1] + sys.argv[2:], verbosity=2)
