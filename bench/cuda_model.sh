#!/usr/bin/env bash
# The 1.3B models of the RAT paper on a GPU: decoding positions 3,072 to 4,095, one sequence and the best batch, and
# training with short and long sequences, models by turns. One JSON a figure and a table of all.
#   bench/cuda_model.sh OUT [PART ...]          parts: decode, train, long; all without one
# Environment: RATTAN (the program), DEVICE (cuda), BATCH (1,auto), STRIDE of the positions (9), ROWS (4) sequences a
# micro-batch and ACCUMULATION (4) micro-batches a step, LONG (131072) tokens, EACH (3) seconds a figure, MODELS,
# EXTRA (more flags of bench model).
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
out=${1:?"usage: bench/cuda_model.sh OUT [PART ...]"}
shift
parts=("$@")
[[ ${#parts[@]} -gt 0 ]] || parts=(decode train long)
rattan=${RATTAN:-build/cuda/rattan} device=${DEVICE:-cuda}
read -ra models <<<"${MODELS:-rat16 rat16-swa attention}"
read -ra extra <<<"${EXTRA:-}"
mkdir -p "$out"
configs=()
for model in "${models[@]}"; do configs+=("recipes/paper/$model-1.3b.toml"); done

bench() {  # NAME FLAG ...
  local name=$1
  shift
  "$rattan" bench model --device "$device" --json "$@" "${extra[@]}" >"$out/$name.json"
  python3 - "$out/$name.json" <<'END'
import json, sys
report = json.load(open(sys.argv[1]))
print(report["device_name"] or report["device"], report["dtype"])
for r in report["results"]:
    shares = "  ".join(f"{100 * r[key]:.1f} % of {key[9:]}" for key in
                       ("share_of_copy", "share_of_peak", "share_of_products") if key in r)
    print(f'{r["model"]:16} {r["mode"]:9} {r["tokens"]:>7} x {r["batch"]:<5} {r["tokens_per_second"]:>11.1f} tokens/s '
          f'{1e3 * r["seconds"] / r["steps_a_call"]:10.3f} ms a step ({r["calls"]} calls)  {shares}'
          f'  {r.get("peak_bytes", 0) / 1e9:.1f} GB')
END
}

for part in "${parts[@]}"; do
  case $part in
    decode) bench decode "${configs[@]}" --mode decode --batch "${BATCH:-1,auto}" --stride "${STRIDE:-9}" \
      --fill computed --seconds "${EACH:-3}" --budget 20 ;;
    train) bench train "${configs[@]}" --mode train --rows "${ROWS:-4}" --accumulation "${ACCUMULATION:-4}" \
      --seconds "${EACH:-3}" --budget 20 ;;
    long) bench long "${configs[0]}" --mode train --seq "${LONG:-131072}" --checkpointing \
      --seconds "${EACH:-3}" --budget 30 ;;
    *) echo "unknown part '$part': decode, train and long are" >&2; exit 2 ;;
  esac
done
