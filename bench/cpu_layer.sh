#!/usr/bin/env bash
# Times the layers of docs/results/cpu-layer.md on this machine: `rattan bench layer` and bench/eager_rat.py.
#   bench/cpu_layer.sh [-o FOLDER] [PART...]     parts: train-8k train-32k eager decode prefill sweep report
# All parts by default (about ten minutes). Each leaves JSON files in FOLDER (build/cpu-layer); a part that is
# repeated replaces its own. `report` writes FOLDER/cpu-layer.json and prints the table.
set -euo pipefail
cd "$(dirname "$0")/.."
rattan=${RATTAN:-build/release/rattan}
python=${PYTHON:-.venv/bin/python}
out=build/cpu-layer
if [[ ${1:-} == -o ]]; then
  out=$2
  shift 2
fi
parts=("$@")
((${#parts[@]})) || parts=(train-8k train-32k eager decode prefill sweep report)
mkdir -p "$out"

# layer NAME DTYPE ARG...
layer() {
  local name=$1 dtype=$2
  shift 2
  "$rattan" bench layer --dtype "$dtype" --json "$@" >"$out/$name-$dtype.json"
}

for part in "${parts[@]}"; do
  case $part in
    train-8k)
      for dtype in fp32 bf16; do
        layer train-8k $dtype --mixers rat:16,products,attention,attention:torch --seq 8192 --mode train --rounds 3 \
          --seconds 5
      done
      ;;
    train-32k)
      for dtype in fp32 bf16; do
        layer train-32k $dtype --mixers rat:16,attention:torch --seq 32768 --mode train --rounds 1 --seconds 1
      done
      ;;
    eager)   # two programs take turns
      rm -f "$out"/eager-*.json
      for turn in 1 2; do
        for dtype in fp32 bf16; do
          "$python" bench/eager_rat.py --dtype $dtype --calls 2 >"$out/eager-$turn-$dtype.json"
          layer eager-rat-$turn $dtype --mixers rat:16 --seq 2048 --batch 4 --mode train --seconds 1
        done
      done
      ;;
    decode)
      for dtype in fp32 bf16; do
        layer decode $dtype --mixers rat:16,products,attention,attention:torch --seq 16384 --batch 8 --mode decode \
          --seconds 4
      done
      ;;
    prefill)
      for dtype in fp32 bf16; do
        layer prefill $dtype --mixers products,rat:16 --seq 8192 --mode prefill --rounds 7
      done
      ;;
    sweep)
      layer sweep fp32 --mixers rat:16,rnn,swa,attention,attention:torch --mode train --rounds 1 --seconds 1 \
        --seq 512,1024,2048,4096,8192,16384 --plot "$out/cpu-layer"
      ;;
    report)
      "$python" bench/cpu_layer_report.py "$out"
      ;;
    *)
      echo "unknown part '$part'; parts: train-8k train-32k eager decode prefill sweep report" >&2
      exit 2
      ;;
  esac
done
