#!/usr/bin/env python3
"""Compares two files of figures: exit status 1 if something became slower than --tolerance allows.

    build/bench/ops_bench --benchmark_repetitions=5 --benchmark_out=old.json
    build/bench/step_bench --json step.json      (files of several runs may be joined: cat a.json b.json)
    bench/compare.py old.json new.json

Repeated runs of one thing are judged by the best of them, since a machine only ever makes them slower.
The ratio is new speed by old speed; what lost most comes first. With --relative, fractions of the peak
(or of the copy bandwidth) that each run measured beside itself are compared instead of times, for runs
on machines whose speed differs.
"""

import argparse
import json
import sys

SECONDS = {"ns": 1e-9, "us": 1e-6, "ms": 1e-3, "s": 1.0}


def documents(text):
    """The JSON values of a text, one after the other; lists are taken apart."""
    decoder, position, found = json.JSONDecoder(), 0, []
    while position < len(text.rstrip()):
        while text[position].isspace():
            position += 1
        value, position = decoder.raw_decode(text, position)
        found += value if isinstance(value, list) else [value]
    return found


def benchmark_figures(document, relative):
    for row in document["benchmarks"]:
        if row.get("run_type", "iteration") != "iteration" or row.get("error_occurred"):
            continue
        name = row.get("run_name", row["name"])
        if not relative:
            yield name, 1 / (row["real_time"] * SECONDS[row["time_unit"]])
        elif "peak%" in row or "copy%" in row:
            yield name, row.get("peak%", row.get("copy%")) / 100


def step_figures(document, relative):
    keys = ("model", "resolution", "batch", "mode", "isa", "threads")
    name = " ".join("%s=%s" % (key, document[key]) for key in keys if key in document)
    yield name, document["fraction_of_peak" if relative else "images_per_second"]


def best_figures(text, relative=False):
    """{name: speed}, the best of each name's runs: calls or images a second, or a fraction of the peak."""
    best = {}
    for document in documents(text):
        if "benchmarks" in document:
            figures = benchmark_figures(document, relative)
        elif "images_per_second" in document:
            figures = step_figures(document, relative)
        else:
            raise ValueError("neither figures of step_bench nor of Google Benchmark")
        for name, speed in figures:
            best[name] = max(speed, best.get(name, 0.0))
    return best


def compare(old, new):
    """(ratio, name, old, new) of what both have, the greatest loss first."""
    return sorted((new[name] / old[name], name, old[name], new[name])
                  for name in old if name in new and old[name] > 0)


def show(old, new, rows, out):
    width = max(len(name) for _, name, _, _ in rows)
    print("%-*s %14s %14s %8s" % (width, "by speed", "old", "new", "new/old"), file=out)
    for ratio, name, before, after in rows:
        print("%-*s %14.6g %14.6g %8.3f" % (width, name, before, after, ratio), file=out)
    for label, one, other in (("old", old, new), ("new", new, old)):
        for name in sorted(set(one) - set(other)):
            print("only in %s: %s" % (label, name), file=out)


def parse_arguments(arguments):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("old")
    parser.add_argument("new")
    parser.add_argument("--tolerance", type=float, default=5, help="percent that may be lost (%(default)s)")
    parser.add_argument("--relative", action="store_true", help="compare fractions of the measured peak")
    return parser.parse_args(arguments)


def load(path, relative):
    try:
        with open(path) as file:
            return best_figures(file.read(), relative)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise SystemExit("compare.py: %s: %s" % (path, error))


def main(arguments=None, out=sys.stdout):
    args = parse_arguments(arguments)
    try:
        old, new = load(args.old, args.relative), load(args.new, args.relative)
        rows = compare(old, new)
        if not rows:
            raise SystemExit("compare.py: the files have nothing in common")
    except SystemExit as error:
        print(error, file=sys.stderr)
        return 2
    show(old, new, rows, out)
    lost = [row for row in rows if row[0] < 1 - args.tolerance / 100]
    print("%d of %d lost more than %g %%" % (len(lost), len(rows), args.tolerance), file=out)
    return 1 if lost else 0


if __name__ == "__main__":
    sys.exit(main())
