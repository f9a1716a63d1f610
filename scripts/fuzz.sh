#!/usr/bin/env bash
# ./dev fuzz [SECONDS] [NAME...]: runs every fuzz target, or the named ones, two at a time, for SECONDS each.
# Seeds come from fuzz/corpus/NAME; what a run finds is kept in build/fuzz/found/NAME and used by the next one.
# An input that breaks a reader is left in build/fuzz/broken/.
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
cd "$root"
source scripts/setup.sh
seconds=${1:-60}
[[ $seconds =~ ^[0-9]+$ ]] || die "SECONDS is a whole number, not '$seconds'."
shift || true

shopt -s nullglob
./dev --preset fuzz build
names=("$@")
if ((${#names[@]} == 0)); then
  for source in fuzz/*_fuzz.cpp; do
    name=$(basename "$source" _fuzz.cpp)
    names+=("$name")
  done
fi

fuzz_one() {
  local name=$1 seconds=$2 folder=build/fuzz
  local log=$folder/$name.log
  mkdir -p "$folder/found/$name" "$folder/broken" "fuzz/corpus/$name"
  # Leaks count too; a reader that allocates what a hostile length asks for breaks the memory limit.
  if "$folder/${name}_fuzz" -max_total_time="$seconds" -timeout=10 -rss_limit_mb=1024 -malloc_limit_mb=512 \
    -max_len=65536 -print_final_stats=1 -artifact_prefix="$folder/broken/$name-" \
    "$folder/found/$name" "fuzz/corpus/$name" >"$log" 2>&1; then
    printf '  %-14s ok: %s inputs in %d s\n' "$name" \
      "$(sed -n 's/^stat::number_of_executed_units: *//p' "$log")" "$seconds"
  else
    printf '  %-14s BROKEN; the end of %s:\n' "$name" "$log"
    tail -n 40 "$log"
    return 1
  fi
}
export -f fuzz_one

step "Fuzzing ${names[*]} for $seconds s each"
printf '%s\n' "${names[@]}" | xargs -P 2 -I NAME bash -c 'fuzz_one NAME '"$seconds" ||
  die "a reader broke; replay it with build/fuzz/NAME_fuzz build/fuzz/broken/INPUT."
step_done
echo "${#names[@]} passed, 0 failed"
