#!/usr/bin/env python3
"""Checks the objects of each ISA level in a build folder.

usage: isa_symbols.py BUILD_FOLDER OPTIMIZATION LEVEL...

Symbols (builds without optimization only): an object compiled for AVX2 or AVX-512 must define no
function, external or weak, outside of its own namespaces mbconv::{ops,io}::LEVEL and of xsimd, and no
two levels may define the same one. Otherwise the linker may take that copy for code that runs on any CPU.
With optimization such functions are inlined here and the leak is invisible: nothing is proved there.

Instructions (any build): matrix-product and depthwise objects contain fused multiply-adds, more of them
than multiplications if optimized; no level uses registers that its CPUs lack.
"""

import pathlib
import re
import subprocess
import sys

# Registers that betray a higher level. Of AVX-512: zmm, masks, and registers 16 to 31 of any width.
EVEX = r"%zmm|%k[0-7]|%[xy]mm(?:1[6-9]|2[0-9]|3[01])\b"
FORBIDDEN = {"": r"%ymm|" + EVEX, "generic": r"%ymm|" + EVEX, "avx2": EVEX, "avx512": None}
FUSED = re.compile(r"\bvfn?m(?:add|sub)\d+ps\b.*(%[yz]mm)")
MULTIPLIED = re.compile(r"\bvmulps\b")
SHOWN = 20
FUSED_STEMS = ("conv1x1", "dwconv", "project", "squeeze_excite", "stem")


def run(*command):
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def objects(build, level):
    all_found = []
    for part in ("ops", "io"):
        folder = build / part / ("lib%s_%s.a.p" % (part, level) if level else "lib%s.a.p" % part)
        found = sorted(folder.glob("*.o"))
        if not found:
            sys.exit("isa_symbols: no objects in %s" % folder)
        all_found += found
    return all_found


def defined(path):
    """Pairs (mangled, readable) of the external and weak symbols that `path` defines."""
    mangled = []
    for line in run("nm", "--defined-only", path).splitlines():
        _, kind, name = line.split(maxsplit=2)
        # DW.ref.* is the pointer by which exception tables name their handler, __odr_asan.* a mark that
        # the address sanitizer sets on variables: data, not code.
        if (kind.isupper() or kind in "uvwi") and not name.startswith(("DW.ref.", "__odr_asan.")):
            mangled.append(name)
    readable = run("c++filt", *mangled).splitlines() if mangled else []
    return list(zip(mangled, readable))


def belongs(mangled, level):
    """Whether a symbol's own name, not a type it mentions, lies in the level's namespace or xsimd."""
    # Itanium mangling: _ZN, qualifiers, then each namespace as its length and name. Before the N: Z of
    # something local to a function, GV of a guard, T? of a table.
    inside = "6mbconv(?:3ops|2io)%d%s" % (len(level), level)
    return re.match(r"_Z(?:GV|T[VTIS])?Z?N[rVKRO]*(?:5xsimd|%s)" % inside, mangled) is not None


def check_symbols(build, levels):
    errors, owner = [], {}
    for level in levels:
        if level == "generic":
            continue
        for path in objects(build, level):
            for mangled, readable in defined(path):
                if not belongs(mangled, level):
                    errors.append("%s/%s defines %s" % (level, path.name, readable))
                if owner.setdefault(mangled, level) != level:
                    errors.append("levels %s and %s both define %s" % (owner[mangled], level, readable))
    return errors


def check_instructions(build, levels, optimized):
    errors = []
    for level in ["", *levels]:
        for path in objects(build, level):
            code = run("objdump", "-d", "--no-show-raw-insn", path).splitlines()
            where = "%s/%s" % (level or "portable", path.name)
            forbidden = FORBIDDEN[level]
            if forbidden is not None:
                found = [line.strip() for line in code if re.search(forbidden, line)]
                if found:
                    errors.append("%s: %d instructions above its level, such as %s"
                                  % (where, len(found), found[0]))
            if level in ("", "generic") or not path.name.startswith(FUSED_STEMS):
                continue
            register = "%zmm" if level == "avx512" else "%ymm"
            fused = sum(m is not None and m[1] == register for m in map(FUSED.search, code))
            multiplied = sum(MULTIPLIED.search(line) is not None for line in code)
            if fused == 0:
                errors.append("%s: no fused multiply-add" % where)
            elif optimized and fused <= 2 * multiplied:
                errors.append("%s: %d fused multiply-adds, but %d multiplications" % (where, fused, multiplied))
    return errors


def main():
    if len(sys.argv) < 4:
        sys.exit(__doc__)
    build, optimized, levels = pathlib.Path(sys.argv[1]), sys.argv[2] != "0", sys.argv[3:]
    errors = check_instructions(build, levels, optimized)
    print("instructions of %s: checked" % ", ".join(levels))
    if optimized:
        print("symbols: NOT CHECKED, this build is optimized (%s) and inlining hides leaks;"
              " run this in a build with -Dbuildtype=debug" % sys.argv[2])
    else:
        errors += check_symbols(build, levels)
        print("symbols of all but generic: checked")
    errors = list(dict.fromkeys(errors))
    for error in errors[:SHOWN]:
        print("error: " + error)
    if len(errors) > SHOWN:
        print("and %d more" % (len(errors) - SHOWN))
    return 1 if errors else 0


if __name__ == "__main__":
    sys.exit(main())
