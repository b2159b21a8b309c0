#!/usr/bin/env python3
"""README.md is true: its embedding sample is the compiled one, its commands run. Usage: readme_test.py ROOT BUILD"""
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile
import textwrap

ROOT, BUILD = (pathlib.Path(a).resolve() for a in sys.argv[1:3])
# Run elsewhere: by CI itself, or needing a network.
ELSEWHERE = re.compile(r"^(bin/quickstart|test/run)")
SHORT = {"build/bin/train": ["--steps", "3", "--resolution", "32", "--batch", "4"]}


def blocks(text):
    """Indented blocks, without their indentation."""
    for block in re.findall(r"(?:^    .*\n(?:\n(?=    ))?)+", text, re.M):
        yield textwrap.dedent(block)


def check_sample(text):
    source = (ROOT / "test/embedding_test.cpp").read_text()
    body = source.split("// README sample begins\n")[1].split("  // README sample ends")[0]
    if textwrap.dedent(body).strip() not in [b.strip() for b in blocks(text)]:
        sys.exit("the embedding sample of README.md is not that of test/embedding_test.cpp")
    return body


def make_pictures(folder):
    png = (ROOT / "test/data/augment/rgb.png").read_bytes()
    for split in ("train", "val"):
        for name in "abcde":
            (folder / "pictures" / split / name).mkdir(parents=True)
            for i in range(4):
                (folder / "pictures" / split / name / f"{i}.png").write_bytes(png)


def run_commands(text, folder):
    (folder / "build").symlink_to(BUILD)
    count = 0
    for block in blocks(text):
        for line in block.splitlines():
            if not line.startswith("build/bin/") or ELSEWHERE.match(line):
                continue
            program = line.split()[0]
            command = line + " " + " ".join(SHORT.get(program, []))
            done = subprocess.run(command, shell=True, cwd=folder, capture_output=True, text=True)
            print(f"[{done.returncode}] {command}")
            if done.returncode != 0:
                sys.exit(done.stdout + done.stderr)
            count += 1
    if count < 4:
        sys.exit(f"only {count} commands found in README.md")


def logits(weights):
    done = subprocess.run([BUILD / "test/embedding_test", weights, ROOT / "test/data/augment/rgb.png"], capture_output=True, text=True)
    if done.returncode != 0 or len(done.stdout.split()) != 5:
        sys.exit(f"the embedding sample printed {done.stdout!r} {done.stderr!r}")
    return done.stdout


def run_sample(folder):
    """The sample prepares the picture as the metadata say: another mean, other logits."""
    weights, shifted = folder / "run/last.safetensors", folder / "shifted.safetensors"
    data = weights.read_bytes()
    mean = re.search(rb'"mean":"([^"]*)"', data)
    digits = bytes(ord("1") if b in b"23456789" else b for b in mean.group(1))
    shifted.write_bytes(data[: mean.start(1)] + digits + data[mean.end(1) :])
    if logits(weights) == logits(shifted):
        sys.exit("the embedding sample does not take the normalisation of its checkpoint")


def main():
    text = (ROOT / "README.md").read_text()
    lines = len(text.splitlines())
    if lines > 120:
        sys.exit(f"README.md has {lines} lines")
    check_sample(text)
    folder = pathlib.Path(tempfile.mkdtemp(prefix="mbconv-readme-"))
    try:
        make_pictures(folder)
        run_commands(text, folder)
        run_sample(folder)
    finally:
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
