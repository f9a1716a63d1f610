#!/usr/bin/env bash
# ./dev sanitize: the tests of kernels and readers, and one generation, under AddressSanitizer (with leaks) and
# UndefinedBehaviorSanitizer. These are the floors that compute addresses by hand or read foreign bytes.
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
cd "$root"
source scripts/setup.sh
floors=(base kernels data io serve)
build=build/asan
export ASAN_OPTIONS=detect_leaks=1:strict_string_checks=1
export LSAN_OPTIONS=suppressions=$root/scripts/leaks.txt:print_suppressions=0
export UBSAN_OPTIONS=print_stacktrace=1

programs=()
for floor in "${floors[@]}"; do programs+=("rattan_${floor}_test"); done
./dev --preset asan build rattan "${programs[@]}"

step "Testing ${floors[*]} with sanitizers"
printf -v pattern '%s|' "${floors[@]}"
ctest --test-dir $build --output-on-failure --no-tests=error --no-label-summary -j "$(nproc)" -R "^(${pattern%|})/"
step_done

step "Generating with sanitizers"
rm -rf $build/model
cat >$build/model.toml <<'END'
[model]
vocab_size = 257
d_model = 64
n_layers = 4
pattern = ["rat", "local", "full", "rnn"]
[mixers.rat]
type = "rat"
n_heads = 4
n_groups = 2
chunk = 8
[mixers.local]
type = "swa"
n_heads = 4
window = 16
[mixers.full]
type = "attention"
n_heads = 4
[mixers.rnn]
type = "rnn"
END
# The sanitizer's own dlopen does not know the run path of the program that calls it.
# The search for leaks crashes on libtorch's threads, so it ends with the tests above.
export ASAN_OPTIONS=detect_leaks=0:strict_string_checks=1
export LD_LIBRARY_PATH=$PWD/$build${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}
$build/rattan init $build/model.toml --out $build/model --seed 1
# Longer than chunk and window, and read in several pieces.
$build/rattan generate $build/model --prompt "In the beginning God created the heaven and the earth." \
  --n 3 --max-tokens 48 --ignore-end --prefill-chunk 20 --seed 1 --json >$build/generated.json
step_done
