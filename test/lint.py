#!/usr/bin/env python3
"""Checks the rules of the code that no compiler checks. Usage: lint.py ROOT; exit status 1 on a finding."""
import pathlib
import re
import subprocess
import sys

ROOT = pathlib.Path(sys.argv[1] if len(sys.argv) > 1 else ".").resolve()
FOLDERS = ["lib", "ops", "net", "io", "bin", "test", "bench"]
# One-way includes: what each folder may include besides itself.
MAY_INCLUDE = {
    "lib": set(),
    "ops": {"lib"},
    "net": {"lib", "ops"},
    "io": {"lib"},
    "bin": {"lib", "ops", "net", "io"},
    "test": set(FOLDERS),
    "bench": set(FOLDERS),
}
LONGEST_FILE, LONGEST_KERNEL, LONGEST_FUNCTION = 600, 400, 60
findings = []


def find(path, line, text):
    findings.append(f"{path.relative_to(ROOT)}:{line}: {text}")


def sources():
    for folder in FOLDERS:
        for path in sorted((ROOT / folder).rglob("*")):
            if path.suffix in (".cpp", ".h", ".py") and path.is_file():
                yield folder, path


def check_includes(folder, path, lines):
    allowed = MAY_INCLUDE[folder] | {folder}
    for number, line in enumerate(lines, 1):
        match = re.match(r'#include "(\w+)/', line)
        if match and match.group(1) not in allowed:
            find(path, number, f"{folder} must not include {match.group(1)}")
        if "tbb/" in line and "#include" in line and path.name != "parallel.cpp":
            find(path, number, "oneTBB is named in lib/parallel.cpp alone")
        if "xsimd/" in line and path.name != "simd.h":
            find(path, number, "xsimd is included by ops/simd.h alone")


def check_kernel_quarantine(folder, path, lines):
    """Kernel sources include nothing with inline functions of its own."""
    if folder != "ops" or not path.name.endswith("_kernel.cpp"):
        return
    for number, line in enumerate(lines, 1):
        if re.match(r"#include <(?!immintrin|cstd)", line):
            find(path, number, "a kernel includes headers of ops, lib/tensor.h and <immintrin.h> only")


def check_library_is_quiet(folder, path, lines):
    if folder not in ("lib", "ops", "net", "io"):
        return
    for number, line in enumerate(lines, 1):
        if re.search(r"\b(std::cout|std::cerr|printf\s*\(|std::exit|[^_]exit\s*\(|abort\s*\()", line):
            if not re.search(r"\bv?s?nprintf", line):
                find(path, number, "the library does not print or exit")


def check_contracts(folder, path, lines):
    """Each function of a public ops header comes with its shapes."""
    if folder != "ops" or path.suffix != ".h" or not (path.with_suffix(".cpp")).exists():
        return
    text = "\n".join(lines)
    if not re.search(r"//.*\[[A-Z]", text):
        find(path, 1, "a contract header states shapes, as [N,H,W,C]")


def check_stems(folder, path):
    """One stem for an op: a kernel has a contract header, its dispatch and a test."""
    if folder != "ops" or not path.name.endswith("_kernel.cpp"):
        return
    stem = path.name[: -len("_kernel.cpp")]
    for needed in (f"ops/{stem}.h", f"ops/{stem}.cpp", f"test/{stem}_test.cpp"):
        if not (ROOT / needed).exists():
            find(path, 1, f"{needed} is missing")


def check_size(path, lines):
    limit = LONGEST_KERNEL if path.name.endswith("_kernel.cpp") else LONGEST_FILE
    if len(lines) > limit:
        find(path, len(lines), f"{len(lines)} lines, at most {limit}")


def check_functions(path, lines):
    """Functions begin at the margin or in a class and end with a brace at the same indentation."""
    if path.suffix == ".py":
        return
    opened = {}
    for number, line in enumerate(lines, 1):
        indent = len(line) - len(line.lstrip())
        if re.match(r"\s*(class|struct|namespace|enum|constexpr|static const|inline constexpr|#)", line):
            continue
        if indent <= 2 and re.search(r"\)[^;]*\{$", line) and not re.match(r"\s*(if|for|while|switch|TEST)", line):
            opened[indent] = number
        if re.match(r"\s*\}", line) and indent in opened:
            length = number - opened.pop(indent) + 1
            if length > LONGEST_FUNCTION:
                find(path, number, f"a function of {length} lines, at most {LONGEST_FUNCTION}")


def check_text(path, lines):
    for number, line in enumerate(lines, 1):
        if re.match(r"\s*#if [01]\b", line):
            find(path, number, "no #if 0 or #if 1")
        if "TODO" in line or "FIXME" in line:
            find(path, number, "no open ends in the code")
        if re.search(r"\t| +$", line):
            find(path, number, "a tab or trailing space")
        if len(line) > 120 and path.suffix != ".py":
            find(path, number, f"{len(line)} columns")
        if re.match(r"\s*//\s*(if|for|return|const|auto|int|float)\b.*[;{]\s*$", line):
            find(path, number, "code in a comment")


def check_no_generated_or_large():
    listed = subprocess.run(["git", "-C", ROOT, "ls-files"], capture_output=True, text=True)
    for name in listed.stdout.splitlines():
        path = ROOT / name
        if path.is_file() and path.stat().st_size > 1 << 20:
            find(path, 1, "a file of more than 1 MiB")
    readme = ROOT / "README.md"
    if readme.exists() and len(readme.read_text().splitlines()) > 120:
        find(readme, 121, "README.md has at most 120 lines")


def main():
    for folder, path in sources():
        if path == pathlib.Path(__file__).resolve():
            continue
        lines = path.read_text().splitlines()
        check_includes(folder, path, lines)
        check_kernel_quarantine(folder, path, lines)
        check_library_is_quiet(folder, path, lines)
        check_contracts(folder, path, lines)
        check_stems(folder, path)
        check_size(path, lines)
        check_functions(path, lines)
        check_text(path, lines)
    check_no_generated_or_large()
    for finding in findings:
        print(finding)
    print(f"{len(findings)} findings")
    return 1 if findings else 0


if __name__ == "__main__":
    sys.exit(main())
