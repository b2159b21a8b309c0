#!/usr/bin/env python3
"""Tests of bench/compare.py. Usage: bench_compare_test.py SOURCE_ROOT"""

import contextlib
import io
import json
import os
import sys
import tempfile
import unittest

sys.path.insert(0, os.path.join(sys.argv.pop(1), "bench"))
sys.dont_write_bytecode = True
import compare  # noqa: E402


def row(name, time, unit="us", run_type="iteration", **counters):
    return {"name": name, "run_name": name, "run_type": run_type, "real_time": time, "time_unit": unit,
            **counters}


def benchmark(*rows):
    return json.dumps({"context": {}, "benchmarks": list(rows)})


def step(speed, fraction=0.5, batch=64):
    return json.dumps({"model": "b0", "resolution": 224, "batch": batch, "mode": "training",
                       "images_per_second": speed, "fraction_of_peak": fraction, "isa": "avx2",
                       "threads": 2})


class CompareTest(unittest.TestCase):
    def run_on(self, old, new, *options):
        with tempfile.TemporaryDirectory() as folder:
            paths = [os.path.join(folder, name) for name in ("old.json", "new.json")]
            for path, text in zip(paths, (old, new)):
                with open(path, "w") as file:
                    file.write(text)
            out = io.StringIO()
            return compare.main([*paths, *options], out), out.getvalue()

    def test_the_best_of_repeated_runs_counts(self):
        old = benchmark(row("a", 10), row("a", 12))
        new = benchmark(row("a", 40), row("a", 10.1), row("a", 30))
        self.assertEqual(self.run_on(old, new)[0], 0)
        self.assertEqual(self.run_on(new, benchmark(row("a", 11)))[0], 1)

    def test_aggregates_of_repetitions_are_no_runs(self):
        old = benchmark(row("a", 10))
        new = benchmark(row("a", 20), row("a", 1, run_type="aggregate"))
        self.assertEqual(self.run_on(old, new)[0], 1)

    def test_a_run_that_failed_is_no_run(self):
        new = benchmark(row("a", 20), row("a", 1, error_occurred=True))
        self.assertEqual(self.run_on(benchmark(row("a", 10)), new)[0], 1)

    def test_units_of_time_are_converted(self):
        status, text = self.run_on(benchmark(row("a", 2, "ms")), benchmark(row("a", 2000, "us")))
        self.assertEqual(status, 0)
        self.assertIn("1.000", text)

    def test_the_greatest_loss_comes_first(self):
        old = benchmark(row("a", 10), row("b", 10), row("c", 10))
        new = benchmark(row("a", 9), row("b", 20), row("c", 11))
        names = [line.split()[0] for line in self.run_on(old, new)[1].splitlines()[1:4]]
        self.assertEqual(names, ["b", "c", "a"])

    def test_the_tolerance_decides(self):
        old, new = step(100), step(96)
        self.assertEqual(self.run_on(old, new)[0], 0)
        self.assertEqual(self.run_on(old, new, "--tolerance", "3")[0], 1)
        self.assertEqual(self.run_on(new, old, "--tolerance", "0")[0], 0)

    def test_joined_files_of_steps_are_repeated_runs(self):
        old = step(100) + "\n" + step(90)
        new = "[" + step(80) + "," + step(99) + "]"
        self.assertEqual(self.run_on(old, new)[0], 0)
        self.assertEqual(self.run_on(old, step(80) + step(90))[0], 1)

    def test_steps_of_other_batches_are_other_things(self):
        status, text = self.run_on(step(100) + step(50, batch=8), step(100) + step(10, batch=16))
        self.assertEqual(status, 0)
        self.assertIn("only in old: model=b0 resolution=224 batch=8", text)
        self.assertIn("only in new: model=b0 resolution=224 batch=16", text)

    def test_relative_compares_fractions_of_the_peak(self):
        self.assertEqual(self.run_on(step(100, 0.5), step(50, 0.5), "--relative")[0], 0)
        self.assertEqual(self.run_on(step(100, 0.5), step(100, 0.4), "--relative")[0], 1)
        old = benchmark(row("a", 1, **{"peak%": 50.0, "copy%": 10.0}), row("b", 1, **{"copy%": 50.0}))
        new = benchmark(row("a", 9, **{"peak%": 50.0, "copy%": 5.0}), row("b", 9, **{"copy%": 40.0}))
        status, text = self.run_on(old, new, "--relative")
        self.assertEqual(status, 1)
        self.assertIn("1 of 2 lost", text)

    def test_files_that_cannot_be_compared_are_errors(self):
        for old, new in ((step(1), benchmark(row("a", 1))), ("{}", step(1)), ("", step(1)),
                         ("nonsense", step(1))):
            with contextlib.redirect_stderr(io.StringIO()) as errors:
                self.assertEqual(self.run_on(old, new)[0], 2)
            self.assertIn("compare.py: ", errors.getvalue())
        with contextlib.redirect_stderr(io.StringIO()):
            self.assertEqual(compare.main(["/nonexistent/a", "/nonexistent/b"]), 2)


if __name__ == "__main__":
    unittest.main()
