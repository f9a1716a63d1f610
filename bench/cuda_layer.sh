#!/usr/bin/env bash
# Times the layers of docs/results/h100-layer.md on this machine's GPU with `rattan bench layer`, and the kernels alone.
#   bench/cuda_layer.sh [-o FOLDER] [-n NOTE] [PART...]
#     parts: train train-long prefill prefill-long swa chunks shapes kernels
# All parts by default (about six minutes). Each leaves a table and a JSON file in FOLDER (build/cuda-layer); NOTE goes
# into the JSON (the commit, say). RATTAN names the program, RATTAN_BENCHES the folder of the kernels' benchmarks.
set -euo pipefail
cd "$(dirname "$0")/.."
rattan=${RATTAN:-build/cuda/rattan}
benches=${RATTAN_BENCHES:-build/cuda/bench/kernels_cuda}
out=build/cuda-layer
note=$(git rev-parse --short HEAD 2>/dev/null || true)
while [[ ${1:-} == -? ]]; do
  case $1 in
    -o) out=$2 ;;
    -n) note=$2 ;;
    *) sed -n '2,6p' "$0" >&2 && exit 2 ;;
  esac
  shift 2
done
parts=("$@")
((${#parts[@]})) || parts=(train train-long prefill prefill-long swa chunks shapes kernels)
mkdir -p "$out"

# layer NAME ARG...: a shape of 262,144 tokens a call.
layer() {
  local name=$1
  shift
  "$rattan" bench layer --device cuda --dtype bf16 --tokens 262144 --note "$note" --json "$@" >"$out/$name.json" \
    2>"$out/$name.txt" || { cat "$out/$name.txt" >&2 && return 1; }
  echo "$name: $out/$name.json"
}
wide=(--d-model 2048 --heads 16 --seconds 1 --budget 2)
all=rat:16,rnn,attention:torch,products

for part in "${parts[@]}"; do
  case $part in
    train) layer train "${wide[@]}" --mode train --seq 4096,8192,16384 --mixers $all ;;
    train-long) layer train-long "${wide[@]}" --mode train --seq 65536,131072,262144 --mixers $all ;;
    prefill) layer prefill "${wide[@]}" --mode prefill --seq 4096,8192,16384 --mixers $all ;;
    prefill-long) layer prefill-long "${wide[@]}" --mode prefill --seq 65536,131072,262144 --mixers $all ;;
    swa) layer swa "${wide[@]}" --mode train,prefill --seq 4096,131072 --mixers swa:1024,products ;;
    chunks) layer chunks "${wide[@]}" --mode train --seq 131072 --mixers rat:16,rat:64,rat:128,products ;;
    shapes)
      layer shape-1024 --d-model 1024 --heads 8 --seconds 1 --budget 2 --mode train --seq 4096 --mixers rat:16,products
      layer shape-odd "${wide[@]}" --mode train --seq 5003 --mixers rat:16,products
      layer shape-packed "${wide[@]}" --mode train --seq 16384 --documents 5000,300,2048,77,8959 --mixers rat:16,products
      ;;
    kernels)
      "$benches/rattan_interval_bench" | tee "$out/intervals.txt"
      "$benches/rattan_rat_bench" | tee "$out/rat.txt"
      ;;
    *) echo "bench/cuda_layer.sh: '$part' is no part" >&2 && exit 2 ;;
  esac
done
nvidia-smi --query-gpu=name,driver_version,clocks.sm,clocks.mem,power.limit --format=csv,noheader | tee "$out/device.txt"
