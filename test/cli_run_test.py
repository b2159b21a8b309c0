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


class Options(RunCase):
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
