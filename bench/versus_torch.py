#!/usr/bin/env python3
"""Times training steps and inference beside PyTorch's at its best: same shapes, same cores, in turns.

    python3 -m venv venv && venv/bin/pip install torch torchvision timm --index-url \\
        https://download.pytorch.org/whl/cpu --extra-index-url https://pypi.org/simple
    venv/bin/python bench/versus_torch.py --bench build/bench/step_bench --threads 2 [--inference]

PyTorch runs timm's tf_efficientnet (SiLU) in channels-last memory, with huge pages for its allocator, in
a process of its own that stays warm between rounds. Before the rounds it tries each batch of --batches,
and torch.compile on the best one, which stays where it is faster. Rounds of both alternate, as the
machine's speed drifts; the ratio is taken within each round, and its median is what counts.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time


def parse_arguments():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--bench", default="build/bench/step_bench", help="the program step_bench")
    parser.add_argument("--model", default="b0", help="b0 to b8 (%(default)s)")
    parser.add_argument("--resolution", type=int, default=224)
    parser.add_argument("--batch", type=int, default=64, help="of step_bench (%(default)s)")
    parser.add_argument("--batches", type=int, nargs="+", default=[8, 16, 32, 64],
                        help="of which PyTorch takes its best (%(default)s)")
    parser.add_argument("--inference", action="store_true")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)),
                        help="and cores that both may use (%(default)s)")
    parser.add_argument("--seconds", type=float, default=10, help="of each side in a round (%(default)s)")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--no-compile", action="store_true", help="do not try torch.compile")
    parser.add_argument("--json", help="file for the figures")
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    cores = sorted(os.sched_getaffinity(0))
    if not 1 <= args.threads <= len(cores):
        parser.error("%d threads, but there are %d cores" % (args.threads, len(cores)))
    os.sched_setaffinity(0, cores[:args.threads])
    return args


# PyTorch's side: a process that answers requests, one JSON object a line.


class Runner:
    """Steps of one batch size, eager or compiled."""

    def __init__(self, torch, args, batch, compiled):
        import timm

        self.torch, self.inference, self.batch = torch, args.inference, batch
        torch.manual_seed(1)
        model = timm.create_model("tf_efficientnet_" + args.model, num_classes=1000)
        model = model.to(memory_format=torch.channels_last)
        model.train(not args.inference)
        self.images = torch.randn(batch, 3, args.resolution, args.resolution).to(
            memory_format=torch.channels_last)
        self.labels = torch.arange(batch) % 1000
        self.loss = torch.nn.CrossEntropyLoss(label_smoothing=0.1)
        self.optimiser = torch.optim.SGD(model.parameters(), lr=1e-3, momentum=0.9, weight_decay=1e-5)
        self.model = torch.compile(model) if compiled else model

    def step(self):
        if self.inference:
            with self.torch.inference_mode():
                return self.model(self.images)
        self.optimiser.zero_grad(set_to_none=True)
        loss = self.loss(self.model(self.images), self.labels)
        loss.backward()
        self.optimiser.step()
        return loss

    def measure(self, seconds, least_steps=2):
        """Images a second: the batch by the median step."""
        times, start = [], time.perf_counter()
        while len(times) < least_steps or time.perf_counter() - start < seconds:
            begin = time.perf_counter()
            self.step()
            times.append(time.perf_counter() - begin)
        return self.batch / statistics.median(times)


def answer(torch, args, request, runners):
    key = (request["batch"], request["compiled"])
    if key not in runners:
        runners.clear()  # the memory of one at a time
        runner = Runner(torch, args, *key)
        for _ in range(3):
            runner.step()
        runners[key] = runner
    return {"images_per_second": runners[key].measure(request["seconds"])}


def work(args):
    import torch

    torch.set_num_threads(args.threads)
    torch.set_flush_denormal(True)
    replies = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # what libraries print is no reply
    print(json.dumps({"version": torch.__version__}), file=replies)
    runners = {}
    for line in sys.stdin:
        try:
            reply = answer(torch, args, json.loads(line), runners)
        except Exception as error:  # out of memory, or torch.compile without a compiler
            runners.clear()
            reply = {"error": "%s: %s" % (type(error).__name__, str(error).strip().split("\n")[0])}
        print(json.dumps(reply), file=replies)


class Torch:
    """The other end of work()."""

    def __init__(self):
        environment = dict(os.environ, GLIBC_TUNABLES="glibc.malloc.hugetlb=1")
        self.process = subprocess.Popen([sys.executable, __file__, "--worker", *sys.argv[1:]], text=True,
                                        stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment)
        self.version = self.read()["version"]

    def read(self):
        line = self.process.stdout.readline()
        if not line:
            sys.exit("PyTorch's process ended with status %s" % self.process.wait())
        return json.loads(line)

    def measure(self, batch, compiled, seconds):
        request = {"batch": batch, "compiled": compiled, "seconds": seconds}
        print(json.dumps(request), file=self.process.stdin, flush=True)
        reply = self.read()
        if "error" in reply:
            print("torch %-8s batch %4d: %s" % (mode(compiled), batch, reply["error"]), flush=True)
        return reply.get("images_per_second", 0.0)

    def close(self):
        self.process.stdin.close()
        self.process.wait()


def mode(compiled):
    return "compiled" if compiled else "eager"


def best_setting(args, torch):
    """(batch, compiled) with the most images a second."""
    speeds = {}

    def attempt(batch, compiled):
        speeds[batch, compiled] = torch.measure(batch, compiled, args.seconds)
        print("torch %-8s batch %4d: %8.1f images/s" % (mode(compiled), batch, speeds[batch, compiled]),
              flush=True)

    for batch in args.batches:
        attempt(batch, False)
    if not args.no_compile:
        attempt(max(speeds, key=speeds.get)[0], True)
    best = max(speeds, key=speeds.get)
    if speeds[best] == 0:
        sys.exit("PyTorch ran with none of these batches")
    return best


def run_bench(args, steps):
    with tempfile.NamedTemporaryFile(suffix=".json") as figures:
        command = [args.bench, "--model", args.model, "--resolution", str(args.resolution), "--batch",
                   str(args.batch), "--threads", str(args.threads), "--steps", str(steps), "--json",
                   figures.name]
        subprocess.run(command + ["--inference"] * args.inference, check=True, stdout=subprocess.DEVNULL)
        return json.load(open(figures.name))


def compare(args, torch, batch, compiled):
    rounds = []
    steps = max(2, round(args.seconds * run_bench(args, 2)["images_per_second"] / args.batch))
    torch.measure(batch, compiled, 0)  # warm again
    for number in range(args.rounds):
        ours = run_bench(args, steps)
        theirs = torch.measure(batch, compiled, args.seconds)
        if theirs == 0:
            sys.exit("PyTorch failed in a round")
        rounds.append({"ours": ours["images_per_second"], "torch": theirs,
                       "ratio": ours["images_per_second"] / theirs,
                       "fraction_of_peak": ours["fraction_of_peak"]})
        print("round %d: ours %8.1f images/s (%.3f of peak), torch %8.1f: %5.2f times"
              % (number, rounds[-1]["ours"], ours["fraction_of_peak"], theirs, rounds[-1]["ratio"]),
              flush=True)
    return rounds, ours


def main():
    args = parse_arguments()
    if args.worker:
        return work(args)
    torch = Torch()
    batch, compiled = best_setting(args, torch)
    rounds, ours = compare(args, torch, batch, compiled)
    torch.close()
    ratios = [r["ratio"] for r in rounds]
    kind = "inference" if args.inference else "training"
    print("%s %s, %d pixels, %d threads of %s, %s: median of %d rounds %.2f times PyTorch %s (%s, batch %d), "
          "range %.2f to %.2f" % (args.model, kind, args.resolution, args.threads, ours["cpu"], ours["isa"],
                                  len(rounds), statistics.median(ratios), torch.version, mode(compiled),
                                  batch, min(ratios), max(ratios)))
    if args.json:
        result = {"model": args.model, "resolution": args.resolution, "mode": kind, "batch": args.batch,
                  "threads": args.threads, "cpu": ours["cpu"], "isa": ours["isa"], "torch": torch.version,
                  "torch_batch": batch, "torch_compiled": compiled, "rounds": rounds,
                  "ratio_median": statistics.median(ratios), "ratio_range": [min(ratios), max(ratios)]}
        with open(args.json, "w") as out:
            json.dump(result, out, indent=2)
            out.write("\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
