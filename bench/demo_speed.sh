#!/usr/bin/env bash
# Training speed of the demo's model: rattan and the same model in plain PyTorch, taking turns.
#   bench/demo_speed.sh [ROUNDS (3)] [SECONDS a turn (10)]
# Environment: RATTAN (the program), PYTHON (one that has torch), DATA (packed data of the demo).
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
rounds=${1:-3} seconds=${2:-10}
rattan=${RATTAN:-build/release/rattan} python=${PYTHON:-.venv/bin/python} data=${DATA:-runs/demo/data}
[[ -e $data/manifest.json ]] || { echo "there is no packed data in $data; run ./dev demo first" >&2; exit 2; }
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
for ((round = 1; round <= rounds; ++round)); do
  "$python" bench/torch_yardstick.py "$data" --seconds "$seconds" >>"$work/torch"
  rm -rf "$work/run"
  "$rattan" train recipes/demo.toml --out "$work/run" --quiet --json "data.sources.0.path=$data" data.valid_split= \
    "run.minutes=0" "train.steps=$((seconds * 10))" run.sample_tokens=0 run.peak_tflops=1 >/dev/null
  cat "$work/run/metrics.jsonl" >"$work/rattan.$round"
  echo "round $round of $rounds" >&2
done
"$python" - "$work" "$rounds" <<'END'
import json, statistics, sys
work, rounds = sys.argv[1], int(sys.argv[2])
torch = [json.loads(line)["tokens_per_second"] for line in open(f"{work}/torch")]
own = []
for i in range(1, rounds + 1):
    speeds = [json.loads(line)["tokens_per_second"] for line in open(f"{work}/rattan.{i}")]
    own.append(statistics.median(speeds[3:]))
for name, values in (("PyTorch", torch), ("Rattan", own)):
    print(f"{name:8} tokens/s: median {statistics.median(values):8.0f}   of " + ", ".join(f"{v:.0f}" for v in values))
ratios = [a / b for a, b in zip(own, torch)]
print(f"ratio: median {statistics.median(ratios):.2f}, least {min(ratios):.2f}, most {max(ratios):.2f}")
END
