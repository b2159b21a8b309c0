#!/usr/bin/env python3
"""What a user may rely on where data are damaged, shared or slow. Usage: cli_data_test.py FOLDER_OF_PROGRAMS [unittest arguments]."""
import csv
import gzip
import os
import pathlib
import re
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import time
import unittest

from cli_test import BIN, Case, RECIPE, SMALL, example, frame, limit_file_size, run


def frames_of(data):
    """Offsets of the frames of a whole file."""
    offsets, at = [], 0
    while at < len(data):
        offsets.append(at)
        at += 16 + struct.unpack("<Q", data[at : at + 8])[0]
    return offsets


class DataCase(Case):
    def new_folder(self):
        return pathlib.Path(tempfile.mkdtemp(dir=self.folder))

    def damaged_data(self):
        """Copies of both training shards with five bad records: (file number, record, word of the reason)."""
        folder = self.new_folder()
        bad = [(0, 3, "length CRC"), (0, 11, "data CRC"), (1, 0, "length CRC"), (1, 7, "label 77"), (1, 8, "not a readable")]
        for number, shard in enumerate(sorted(self.folder.glob("train-*-of-00002.tfrecord"))):
            data = bytearray(shard.read_bytes())
            offsets = frames_of(data)
            records = [bytes(data[a:b]) for a, b in zip(offsets, offsets[1:] + [len(data)])]
            for file, record, what in bad:
                if file != number:
                    continue
                broken = bytearray(records[record])
                broken[2 if what == "length CRC" else 30] ^= 8
                if what == "label 77":
                    broken = frame(example(image=b"x", label=77))
                elif what == "not a readable":
                    broken = frame(example(image=b"no picture", label=1))
                records[record] = bytes(broken)
            (folder / shard.name).write_bytes(b"".join(records))
        return folder, bad

    def interrupt(self, out, step, *args):
        """Interrupts a run after a step; needs --log-every 1."""
        process = subprocess.Popen([BIN / "train", "--out", out, *SMALL, *RECIPE, *map(str, args)], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        for line in process.stderr:
            if line.startswith(f"step {step}/"):
                process.send_signal(signal.SIGINT)
                break
        process.stderr.read()
        process.stderr.close()
        self.assertIn(process.wait(), (0, 130))

    def bad_rows(self, out):
        with open(out / "bad_records.csv") as file:
            return list(csv.DictReader(file))


class BadRecords(DataCase):
    def test_strict_is_the_default_and_names_the_first(self):
        folder, _ = self.damaged_data()
        done = self.train(self.out(), "--steps", 3, data=f"{folder}/*")
        self.fails(done, 1, "00000-of-00002", "record 3", "offset", "expected 0x", "found 0x")

    def test_skip_lists_every_bad_record_once_with_its_place(self):
        folder, bad = self.damaged_data()
        out = self.out()
        done = self.train(out, "--steps", 12, "--log-every", 1, "--on-bad-record", "skip", data=f"{folder}/*")
        self.assertEqual(done.returncode, 0, done.stderr)
        rows = self.bad_rows(out)
        self.assertEqual(len(rows), 5)
        for number, record, reason in bad:
            (row,) = [r for r in rows if f"{number:05}-of" in r["file"] and int(r["record"]) == record]
            self.assertIn(reason, row["reason"])
            if "CRC" in reason:
                self.assertRegex(row["expected_crc"], "^0x[0-9a-f]{8}$")
                self.assertNotEqual(row["expected_crc"], row["found_crc"])
            self.assertIn(f"{number:05}-of-00002.tfrecord: record {record} at offset {row['offset']}: ", done.stdout)
        log = self.rows(out, "train")
        self.assertEqual(log[-1]["bad_records"], "5")
        places = " ".join(r["bad_list"] for r in log).split()
        self.assertEqual(len(places), 5)
        self.assertTrue(any(p.endswith("00000.tfrecord:3@" + rows[0]["offset"]) or ":3@" in p for p in places))
        # At the end of every epoch: how many so far, and which are new.
        counts = re.findall(r"^bad records left out so far: (\d+) of training, 0 of validation(; new:)?$", done.stdout, re.M)
        self.assertEqual(counts[-1][0], "5")
        self.assertEqual(len(counts), 3, done.stdout)
        self.assertEqual(counts[-1][1], "")
        self.assertEqual(len(re.findall(r"^  .*: record \d+ at offset \d+: ", done.stdout, re.M)), 5)
        self.assertFalse((out / "quarantine").exists())

    def test_quarantine_keeps_bytes_and_reasons(self):
        folder, bad = self.damaged_data()
        out = self.out()
        done = self.train(out, "--steps", 12, "--on-bad-record", "quarantine", data=f"{folder}/*")
        self.assertEqual(done.returncode, 0, done.stderr)
        with open(out / "quarantine" / "reasons.csv") as file:
            rows = list(csv.DictReader(file))
        self.assertEqual(len(rows), 5)
        for row in rows:
            whole = pathlib.Path(row["file"]).read_bytes()
            raw = (out / "quarantine" / row["saved_as"]).read_bytes()
            self.assertEqual(raw, whole[int(row["offset"]) :][: len(raw)])
            self.assertGreater(len(raw), 16)

    def test_a_new_run_begins_its_list_anew(self):
        folder, _ = self.damaged_data()
        for data, count in ((f"{folder}/*", 5), (self.train_data, 0)):
            out = self.out()
            out.mkdir()
            (out / "bad_records.csv").write_text("file,record,offset,expected_crc,found_crc,reason\nold,1,2,,,gone\n")
            self.assertEqual(self.train(out, "--steps", 5, "--on-bad-record", "skip", data=data).returncode, 0)
            self.assertEqual(len(self.bad_rows(out)) if count else (out / "bad_records.csv").exists(), count)

    def test_results_with_skipped_records_do_not_depend_on_threads_or_prefetch(self):
        folder, _ = self.damaged_data()
        weights = []
        for threads, prefetch in ((1, 1), (2, 3), (4, 9)):
            out = self.out()
            done = self.train(out, "--steps", 12, "--threads", threads, "--prefetch", prefetch, "--on-bad-record", "skip", data=f"{folder}/*")
            self.assertEqual(done.returncode, 0, done.stderr)
            weights.append([(out / n).read_bytes() for n in ("last.safetensors", "last.state.safetensors", "bad_records.csv")])
        self.assertEqual(weights[0], weights[1])
        self.assertEqual(weights[0], weights[2])

    def test_a_run_with_skipped_records_resumes_with_the_same_bits(self):
        folder, _ = self.damaged_data()
        whole = self.out()
        args = ("--on-bad-record", "skip", "--log-every", 1, "--val-data", self.val_data)
        self.assertEqual(self.train(whole, "--steps", 13, *args, data=f"{folder}/*").returncode, 0)
        for step in (2, 6, 10):
            broken = self.out()
            self.interrupt(broken, step, "--train-data", f"{folder}/*", "--steps", 13, *args)
            done = run("train", "--resume", "--out", broken)
            self.assertEqual(done.returncode, 0, done.stderr)
            for name in ("last.safetensors", "last.state.safetensors", "bad_records.csv"):
                self.assertEqual((whole / name).read_bytes(), (broken / name).read_bytes(), name)
            columns = ("step", "epoch", "split", "loss", "bad_records", "bad_list")
            logs = [[[r[c] for c in columns] for r in self.rows(o, "train")] for o in (whole, broken)]
            self.assertEqual(*logs)

    def test_a_run_that_stopped_at_a_bad_record_goes_on_when_told_to_skip(self):
        good = self.a_shard.read_bytes()
        path = self.new_folder() / "x.tfrecord"
        path.write_bytes(good + frame(example(image=b"nothing", label=0)) + good)
        out = self.out()
        self.fails(self.train(out, "--steps", 9, "--shuffle", "off", "--checkpoint-every-steps", 1, data=path), 1, "record 20")
        done = run("train", "--resume", "--out", out, "--on-bad-record", "skip")
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertEqual(len(self.bad_rows(out)), 1)
        whole = self.out()
        self.assertEqual(self.train(whole, "--steps", 9, "--shuffle", "off", "--on-bad-record", "skip", data=path).returncode, 0)
        self.assertEqual((out / "last.safetensors").read_bytes(), (whole / "last.safetensors").read_bytes())

    def test_max_bad_stops_a_run_that_is_mostly_garbage(self):
        folder, _ = self.damaged_data()
        args = ("--steps", 12, "--on-bad-record", "skip")
        self.fails(self.train(self.out(), *args, "--max-bad", 4, data=f"{folder}/*"), 1, "too many bad records: 5", "record")
        self.fails(self.train(self.out(), *args, "--max-bad", "10%", data=f"{folder}/*"), 1, "too many bad records: 5 of the first")
        self.assertEqual(self.train(self.out(), *args, "--max-bad", 5, data=f"{folder}/*").returncode, 0)
        for wrong in ("lots", "101%", "-1"):
            self.fails(self.train(self.out(), *args, "--max-bad", wrong), 2, "--max-bad")
        garbage = self.new_folder() / "g.tfrecord"
        garbage.write_bytes(frame(example(image=b"nothing", label=0)) * 30)
        self.fails(self.train(self.out(), *args, data=garbage), 1, "bad records")

    def test_a_shard_that_is_no_record_file_is_one_bad_record(self):
        folder = self.new_folder()
        shutil.copy(self.a_shard, folder)
        (folder / "empty.tfrecord").write_bytes(b"")
        (folder / "text.tfrecord").write_text("These are not the records you are looking for.\n" * 9)
        out = self.out()
        self.fails(self.train(out, "--steps", 6, data=f"{folder}/*"), 1, "empty")
        done = self.train(out, "--steps", 6, "--on-bad-record", "skip", data=f"{folder}/*")
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertEqual({pathlib.Path(r["file"]).name for r in self.bad_rows(out)}, {"empty.tfrecord", "text.tfrecord"})

    def test_a_full_disk_for_the_quarantine_is_an_error(self):
        folder, _ = self.damaged_data()
        out = self.out()
        out.mkdir()
        (out / "quarantine").write_text("in the way")
        self.fails(self.train(out, "--steps", 12, "--on-bad-record", "quarantine", data=f"{folder}/*"), 1, "quarantine")

    def test_eval_counts_the_good_pictures_and_lists_the_bad(self):
        folder, _ = self.damaged_data()
        out = self.out()
        self.assertEqual(self.train(out, "--steps", 2).returncode, 0)
        args = ("eval", "--weights", out / "last.safetensors", "--data", f"{folder}/*", "--batch", 7)
        self.fails(run(*args), 1, "record 3")
        done = run(*args, "--on-bad-record", "skip")
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertIn("bad records left out: 5\n", done.stdout)
        self.assertTrue(done.stdout.splitlines()[-1].endswith("images 35"), done.stdout)
        self.fails(run(*args, "--on-bad-record", "quarantine"), 2, "--on-bad-record")


class Sharing(DataCase):
    def test_every_image_is_in_one_part_of_the_validation(self):
        out = self.out()
        self.assertEqual(self.train(out, "--steps", 2).returncode, 0)
        whole = None
        for parts in (1, 3):
            images, correct = 0, 0.0
            for part in range(parts):
                done = run("eval", "--weights", out / "last.safetensors", "--data", self.train_data, "--shard", f"{part}/{parts}")
                self.assertEqual(done.returncode, 0, done.stderr)
                match = re.search(r"top-1 (\S+) .* images (\d+)$", done.stdout)
                images += int(match.group(2))
                correct += float(match.group(1)) * int(match.group(2))
            self.assertEqual(images, 40)
            whole = correct if whole is None else whole
            self.assertAlmostEqual(correct, whole, delta=0.01)

    def test_training_takes_a_part_of_each_epoch(self):
        out = self.out()
        done = self.train(out, "--epochs", 2, "--batch", 5, "--shard", "1/2", "--log-every", 1)
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertEqual([int(r["epoch"]) for r in self.rows(out)], [1] * 4 + [2] * 4)
        for wrong in ("2/2", "x", "0/0", "-1/2", "1/2/3", "1"):
            self.fails(self.train(self.out(), "--shard", wrong), 2, "--shard")

    def test_block_shuffling_trains_and_resumes(self):
        whole, broken = self.out(), self.out()
        args = ("--shuffle", "block", "--shuffle-block", 3, "--shuffle-window", 12)
        self.assertEqual(self.train(whole, "--steps", 9, *args).returncode, 0)
        self.interrupt(broken, 4, "--train-data", self.train_data, "--steps", 9, "--log-every", 1, *args)
        self.assertEqual(run("train", "--resume", "--out", broken).returncode, 0)
        self.assertEqual((whole / "last.safetensors").read_bytes(), (broken / "last.safetensors").read_bytes())
        other = self.out()
        self.assertEqual(self.train(other, "--steps", 9).returncode, 0)
        self.assertNotEqual((whole / "last.safetensors").read_bytes(), (other / "last.safetensors").read_bytes())

    def test_block_shuffling_reads_compressed_files_in_place(self):
        folder, nowhere = self.new_folder(), {**os.environ, "TMPDIR": "/nonexistent"}
        for shard in self.folder.glob("*-of-*.tfrecord"):
            (folder / shard.name).write_bytes(gzip.compress(shard.read_bytes()))
            os.utime(folder / shard.name, (time.time() - 3600,) * 2)
        compressed, val = f"{folder}/train-*-of-00002.tfrecord", f"{folder}/val-*"
        args = ("--shuffle", "block", "--shuffle-block", 3, "--shuffle-window", 12)
        plain, whole, broken = self.out(), self.out(), self.out()
        self.assertEqual(self.train(plain, "--steps", 9, "--val-data", self.val_data, *args).returncode, 0)
        done = self.train(whole, "--steps", 9, "--val-data", val, *args, data=compressed, env=nowhere)
        self.assertEqual(done.returncode, 0, done.stderr)
        self.interrupt(broken, 4, "--train-data", compressed, "--val-data", val, "--steps", 9, "--log-every", 1, *args)
        self.assertEqual(run("train", "--resume", "--out", broken, env=nowhere).returncode, 0)
        for out in (whole, broken):
            self.assertEqual((plain / "last.safetensors").read_bytes(), (out / "last.safetensors").read_bytes())
        rows = [[r for r in self.rows(out) if r["split"] == "val"][-1] for out in (plain, whole)]
        self.assertEqual(rows[0]["top1"], rows[1]["top1"])
        self.assertEqual(len(list(folder.glob(".*.mbconv-index"))), 3)
        self.fails(self.train(self.out(), "--steps", 1, data=compressed, env=nowhere), 1, "/nonexistent", "TMPDIR")

    def test_a_bound_in_bytes_changes_no_result(self):
        weights = []
        for bound in ("1", "0", "1M"):
            out = self.out()
            self.assertEqual(self.train(out, "--steps", 4, "--prefetch-bytes", bound).returncode, 0)
            weights.append((out / "last.safetensors").read_bytes())
        self.assertEqual(len(set(weights)), 1)
        self.fails(self.train(self.out(), "--prefetch-bytes", "much"), 2, "--prefetch-bytes")


class Cache(DataCase):
    def aged(self):
        """Copies of the training shards that were changed an hour ago: younger ones are not cached at once."""
        folder = self.new_folder()
        for shard in self.folder.glob("train-*-of-00002.tfrecord"):
            shutil.copy(shard, folder)
            os.utime(folder / shard.name, (time.time() - 3600,) * 2)
        return folder

    def test_indexes_lie_beside_the_data_and_no_glob_finds_them(self):
        folder = self.aged()
        for _ in range(2):
            self.assertEqual(self.train(self.out(), "--steps", 1, data=f"{folder}/*").returncode, 0)
            self.assertEqual(len(list(folder.glob(".*.mbconv-index"))), 2)

    def test_a_cache_folder_takes_them_all(self):
        folder, cache = self.aged(), self.folder / "cache" / "below"
        for _ in range(2):
            self.assertEqual(self.train(self.out(), "--steps", 1, "--cache-dir", cache, data=f"{folder}/*").returncode, 0)
            self.assertEqual(len(list(cache.iterdir())), 2)
        self.assertEqual(len(list(folder.iterdir())), 2)

    def test_a_cache_folder_that_cannot_be_written_is_an_error_but_a_full_disk_beside_the_data_is_not(self):
        folder = self.aged()
        blocked = self.new_folder() / "file"
        blocked.write_text("")
        self.fails(self.train(self.out(), "--steps", 1, "--cache-dir", blocked, data=f"{folder}/*"), 1, "cache folder", blocked)
        done = run("records", "inspect", "--data", f"{folder}/*", preexec_fn=limit_file_size(10))
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertRegex(done.stderr, "warning: the next run indexes the files again: cannot write .*mbconv-index: .*--cache-dir")
        self.assertEqual(len(list(folder.iterdir())), 2)

    def test_data_that_change_after_they_were_indexed_are_indexed_anew(self):
        folder = self.aged()
        data, shard = f"{folder}/*", sorted(folder.iterdir())[0]
        self.assertIn("40 records", run("records", "inspect", "--data", data).stdout)
        whole = shard.read_bytes()
        shard.write_bytes(whole + whole)
        self.assertIn("60 records", run("records", "inspect", "--data", data).stdout)
        cached = sorted(folder.glob(".*.mbconv-index"))[0]
        cached.write_bytes(b"damaged")
        self.assertIn("60 records", run("records", "inspect", "--data", data).stdout)


class Names(DataCase):
    def test_class_names_are_checked_against_the_classes_and_shown(self):
        names = self.new_folder() / "names.txt"
        names.write_text("ant\nbee\ncat\nzebra\n")
        out = self.out()
        done = self.train(out, "--steps", 1, "--class-names", names)
        self.assertEqual(done.returncode, 0, done.stderr)
        done = run("eval", "--weights", out / "last.safetensors", "--data", self.val_data, "--per-class", "--class-names", names)
        self.assertRegex(done.stdout, r"class 1 \(bee\): top-1 \d\.\d{4} images 3\n")
        self.assertEqual(len(re.findall("^class ", done.stdout, re.M)), 4)
        names.write_text("ant\nbee\n")
        self.fails(self.train(self.out(), "--class-names", names), 1, names, "2 class names", "4 classes")
        self.fails(self.train(self.out(), "--class-names", "/nonexistent"), 1, "/nonexistent")

    def test_both_conventions_of_keys_give_the_same_labels(self):
        folder = self.new_folder()
        data = self.a_shard.read_bytes()
        offsets = frames_of(data)
        png = re.search(rb"\x89PNG.*?IEND....", data, re.S).group(0)
        for name, image, label, offset in (("ours", "image", "label", 0), ("theirs", "image/encoded", "image/class/label", 1)):
            records = [frame(example(**{image: png, label: i % 4 + offset})) for i in range(len(offsets))]
            (folder / name).write_bytes(b"".join(records))
        outs = [run("records", "inspect", "--data", folder / n).stdout for n in ("ours", "theirs")]
        for out in outs:
            self.assertIn("4 labels from 0 to 3", out)
        weights = []
        for name in ("ours", "theirs"):
            out = self.out()
            self.assertEqual(self.train(out, "--steps", 2, data=folder / name).returncode, 0)
            weights.append((out / "last.safetensors").read_bytes())
        self.assertNotEqual(weights[0], b"")
        done = self.train(self.out(), "--steps", 2, "--label-offset", 1, data=folder / "ours")
        self.fails(done, 1, "label 0", "offset 1")


if __name__ == "__main__":
    unittest.main(argv=sys.argv[:1] + sys.argv[2:], verbosity=2)
