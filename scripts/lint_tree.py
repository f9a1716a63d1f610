#!/usr/bin/env python3
"""Checks the rules of the tree that no compiler knows. Prints file:line: rule, exit code 1 if any is broken."""

import pathlib
import re
import statistics
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent

# Which floors the files of a floor may include, beside their own.
SIDE = {"data", "io"}
FLOORS = {"base": set(), "data": {"base"}, "io": {"base"}}
FLOORS["kernels"] = {"base"}
FLOORS["ops"] = FLOORS["kernels"] | {"kernels"}
FLOORS["nn"] = FLOORS["ops"] | {"ops"}
FLOORS["models"] = FLOORS["nn"] | {"nn"} | SIDE
FLOORS["train"] = FLOORS["infer"] = FLOORS["models"] | {"models"}
FLOORS["tasks"] = FLOORS["train"] | {"train", "infer"}
FLOORS["eval"] = FLOORS["bench"] = FLOORS["serve"] = FLOORS["tasks"] | {"tasks"}
FLOORS["cli"] = FLOORS["eval"] | {"eval", "bench", "serve"}

TORCH_FREE = {"base", "kernels", "data"}
MAX_LINES = 800
MAX_MEDIAN = 150
MAX_COLUMNS = 120
CXX = {".h", ".cpp", ".cu", ".cuh"}
TEXT = CXX | {".py", ".sh", ".cmake", ".txt", ".md", ".toml", ".json", ".yml", ".cff", ""}
# Files whose bytes are inputs of tests, not text of ours.
DATA = re.compile(r"^(tests/golden/|fuzz/corpus/)")

LINE_RULES = [
    (re.compile(r"^namespace\s*\{"), "anonymous namespace: name it after the file (<stem>_file)"),
    (re.compile(r"^static\s"), "static at namespace level: put it into the namespace named after the file"),
    (re.compile(r"^using namespace\b"), "using namespace at file scope"),
    (re.compile(r"#\s*include\s*<(torch/torch\.h|ATen/ATen\.h)>"), "umbrella header of torch: include single ATen/ops/*.h"),
    (re.compile(r"\b(TODO|FIXME|XXX|HACK)\b"), "unfinished work belongs into an issue"),
]
INCLUDE = re.compile(r'^\s*#\s*include\s*["<]([^">]+)[">]')
TORCH_INCLUDE = re.compile(r"^(ATen|torch|c10)/")


def tracked_files():
    listing = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    return [name for name in sorted(set(listing.stdout.split("\n"))) if name and (ROOT / name).is_file()]


def text_problems(name, text):
    if text and not text.endswith("\n"):
        yield text.count("\n") + 1, "no newline at the end of the file"
    for number, line in enumerate(text.split("\n"), 1):
        if line != line.rstrip():
            yield number, "white space at the end of the line"
        if "\t" in line and not name.startswith("LICENSE"):
            yield number, "tab"


def include_problem(floor, included):
    if floor in TORCH_FREE and TORCH_INCLUDE.match(included):
        return f"{floor} knows no torch header"
    parts = included.split("/")
    if parts[0] != "rattan" or len(parts) < 3 or parts[1] == floor:
        return None
    if parts[1] not in FLOORS:
        return f"unknown floor '{parts[1]}': add it to scripts/lint_tree.py"
    return None if parts[1] in FLOORS[floor] else f"{floor} must not include {parts[1]} (direction of dependence)"


def cxx_problems(name, lines):
    parts = name.split("/")
    floor = parts[1] if parts[0] == "rattan" and len(parts) > 2 else None
    if floor is not None and floor not in FLOORS:
        yield 1, f"unknown floor '{floor}': add it to scripts/lint_tree.py"
        floor = None
    if len(lines) > MAX_LINES:
        yield MAX_LINES, f"{len(lines)} lines, more than {MAX_LINES}: split the file"
    if name.endswith((".h", ".cuh")) and "#pragma once" not in lines:
        yield 1, "no #pragma once"
    for number, line in enumerate(lines, 1):
        if len(line) > MAX_COLUMNS:
            yield number, f"{len(line)} columns, more than {MAX_COLUMNS}"
        for pattern, message in LINE_RULES:
            if pattern.search(line):
                yield number, message
        included = INCLUDE.match(line)
        if included and floor is not None:
            problem = include_problem(floor, included[1])
            if problem:
                yield number, problem


def main():
    problems, sizes = [], []
    for name in tracked_files():
        path = ROOT / name
        if path.suffix not in TEXT or DATA.match(name):
            continue
        try:
            text = path.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            problems.append(f"{name}:1: not UTF-8")
            continue
        found = list(text_problems(name, text))
        if path.suffix in CXX:
            lines = text.split("\n")[:-1]
            found += cxx_problems(name, lines)
            if name.startswith("rattan/"):
                sizes.append(len(lines))
        problems += [f"{name}:{number}: {message}" for number, message in found]
    median = statistics.median(sizes) if sizes else 0
    if median > MAX_MEDIAN:
        problems.append(f"rattan/: the median file has {median:g} lines, more than {MAX_MEDIAN}")
    print("\n".join(problems), end="\n" if problems else "")
    print(f"tree rules: {len(sizes)} files in rattan/, median {median:g} lines, longest {max(sizes, default=0)}; "
          f"{len(problems)} problems")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
