#!/usr/bin/env bash
# Projections in fp8 beside bf16: times of one layer, and the loss curve of the demo's model on the same data.
#   bench/fp8.sh [STEPS (200)] [SEED ...(1 2)]
# Environment: RATTAN (the program), PYTHON, DATA (packed data of the demo), DEVICE (cuda), OUT (a folder that keeps
# the JSON of the layer and the metrics; else they go with the run). On a device without fp8 products (DEVICE=cpu) the
# layer is left out and the curve is that of the emulation, which rounds the same way.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
steps=${1:-200}
shift || true
seeds=("$@")
[[ ${#seeds[@]} -gt 0 ]] || seeds=(1 2)
rattan=${RATTAN:-build/release/rattan} python=${PYTHON:-.venv/bin/python} data=${DATA:-runs/demo/data}
device=${DEVICE:-cuda} fp8=fp8
[[ -e $data/manifest.json ]] || { echo "there is no packed data in $data; run ./dev demo first" >&2; exit 2; }
out=${OUT:-}
if [[ -z $out ]]; then
  out=$(mktemp -d)
  trap 'rm -rf "$out"' EXIT
fi
mkdir -p "$out"
if [[ $device == cpu ]]; then
  fp8=fp8_emulated
else
  "$rattan" bench layer --device "$device" --dtype bf16 --d-model 2048 --heads 16 --groups 2 --tokens 262144 \
    --seq 4096 --mode train,prefill --mixers rat:16,products --against rat:16 --fp8 --seconds 2 --budget 4 --json \
    >"$out/layer.json"
fi
for seed in "${seeds[@]}"; do
  for precision in bf16 $fp8; do
    rm -rf "$out/$precision.$seed"
    "$rattan" train recipes/demo.toml --out "$out/$precision.$seed" --quiet --json "run.device=$device" \
      "data.sources.0.path=$data" "train.precision=$precision" "train.seed=$seed" "train.steps=$steps" \
      run.minutes=0 run.sample_tokens=0 run.peak_tflops=1 >"$out/$precision.$seed.json"
    echo "$precision, seed $seed: done" >&2
  done
done
"$python" - "$out" "$fp8" "${seeds[@]}" <<'END'
import json, pathlib, sys
out, fp8, seeds = pathlib.Path(sys.argv[1]), sys.argv[2], sys.argv[3:]
layer = out / "layer.json"
if layer.exists():
    report = json.loads(layer.read_text())
    print(report["device_name"])
    for row in report["rows"]:
        print(f'{row["mode"]:8} {row["mixer"]:14} {1e3 * row["seconds"]:8.2f} ms '
              f'({1e3 * row["seconds_low"]:.2f} .. {1e3 * row["seconds_high"]:.2f}), '
              f'{row.get("multiple_of_products", 1):.2f} of the products in bf16, {row.get("clock_mhz", 0):.0f} MHz')
for seed in seeds:
    curves = {}
    for precision in ("bf16", fp8):
        lines = (out / f"{precision}.{seed}" / "metrics.jsonl").read_text().splitlines()
        curves[precision] = [line["loss"] for line in map(json.loads, lines) if "loss" in line]
    base, other = curves["bf16"], curves[fp8]
    validation = {p: json.loads((out / f"{p}.{seed}.json").read_text())["validation"] for p in ("bf16", fp8)}
    print(f"seed {seed}: loss, mean of steps        bf16   {fp8}   difference")
    quarter = max(1, len(base) // 4)
    for begin in range(0, len(base) - quarter + 1, quarter):
        a = sum(base[begin:begin + quarter]) / quarter
        b = sum(other[begin:begin + quarter]) / quarter
        print(f"  {begin + 1:6} to {begin + quarter:<6} {a:18.4f} {b:8.4f} {100 * (b / a - 1):+8.3f} %")
    worst = max(abs(b / a - 1) for a, b in zip(base, other))
    print(f"  no step further apart than {100 * worst:.2f} %")
    a, b = (validation[p]["loss"] for p in ("bf16", fp8))
    print(f"  held-out loss {a:.4f} and {b:.4f}, {100 * (b / a - 1):+.3f} %")
END
