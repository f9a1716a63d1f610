#!/usr/bin/env python3
"""Runs clang-tidy over a configured build folder, several at a time: tidy.py BUILD [PATTERN].

In a unity build the sources are the generated batches, so headers (torch's above all) are parsed once for eight
files. Kernels that are built once per instruction set are checked once, in their widest form.
"""

import concurrent.futures
import json
import os
import pathlib
import re
import subprocess
import sys
import time

CLANG_TIDY = os.environ.get("CLANG_TIDY", "clang-tidy-16")
WIDEST_ISA = "avx512bf16"


def sources(build, pattern):
    chosen = {}
    for entry in json.loads((build / "compile_commands.json").read_text()):
        isa = re.search(r"-DRATTAN_ISA=(\w+)", entry["command"])
        if isa and isa[1] != WIDEST_ISA:
            continue
        if not entry["file"].endswith((".cpp", ".cxx")):
            continue
        named = [entry["file"]]
        if entry["file"].endswith(".cxx"):
            named = re.findall(r'#include "([^"]+)"', pathlib.Path(entry["file"]).read_text())
        if any(re.search(pattern, name) for name in named):
            chosen[entry["file"]] = entry
    return sorted(chosen)


def short(source):
    """'rattan_nn unity_0' for a batch, the path in the tree for a file."""
    batch = re.search(r"(\w+)\.dir/Unity/(unity_\d+)", source)
    return f"{batch[1]} {batch[2]}" if batch else os.path.relpath(source)


def check(build, source):
    start = time.monotonic()
    done = subprocess.run(
        [CLANG_TIDY, "-p", str(build), "--quiet", "--extra-arg=-Wno-unknown-warning-option",
         "--extra-arg=-fno-openmp", source],
        capture_output=True, text=True,
    )
    return source, done.returncode, done.stdout, done.stderr, time.monotonic() - start


def main():
    build = pathlib.Path(sys.argv[1])
    todo = sources(build, sys.argv[2] if len(sys.argv) > 2 else "")
    seen, bad, times = set(), 0, []
    with concurrent.futures.ThreadPoolExecutor(int(os.environ.get("RATTAN_JOBS") or os.cpu_count())) as pool:
        for source, code, out, err, seconds in pool.map(lambda source: check(build, source), todo):
            times.append((seconds, source))
            if code == 0:
                continue
            bad += 1
            # A header's finding comes once for every source that includes it.
            blocks = re.split(r"(?m)^(?=/\S+:\d+:\d+: (?:error|warning):)", out)
            for block in blocks:
                if block.strip() and block not in seen:
                    seen.add(block)
                    print(block, end="")
            if not out.strip():
                print(f"{source}: clang-tidy failed\n{err}")
    times.sort(reverse=True)
    slowest = ", ".join(f"{short(source)} {seconds:.0f} s" for seconds, source in times[:3])
    print(f"clang-tidy: {len(todo)} sources, {bad} with findings; slowest: {slowest}")
    return 1 if bad or not todo else 0


if __name__ == "__main__":
    sys.exit(main())
