#!/usr/bin/env bash
# ./dev lint [format|tree|tidy...]: all three without an argument. Prints every finding before it fails.
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
cd "$root"
source scripts/setup.sh
need_packages "${build_packages[@]}" "${lint_packages[@]}"
failed=()

lint_format() {
  step "Checking the layout with clang-format"
  git ls-files --cached --others --exclude-standard '*.h' '*.cpp' '*.cu' '*.cuh' |
    xargs -r clang-format-16 --dry-run -Werror || failed+=("layout (./dev format mends it)")
  step_done
}

lint_tree() {
  step "Checking the rules of the tree"
  python3 scripts/lint_tree.py || failed+=("tree rules")
  step_done
}

# One compile per source: kernels are built once per instruction set, and the widest one holds the most code.
lint_tidy() {
  ./dev configure >/dev/null
  step "Checking with clang-tidy"
  python3 scripts/tidy.py build/release || failed+=("clang-tidy")
  step_done
}

for part in "${@:-format tree tidy}"; do
  for one in $part; do "lint_$one"; done
done
if ((${#failed[@]})); then
  printf -v list '%s, ' "${failed[@]}"
  die "lint found problems: ${list%, }."
fi
