#!/usr/bin/env bash
# bench/tasks.sh NAME MODEL_DIR CALIBRATION|- : what bench/results/tasks-NAME.jsonl was made with: BLiMP's minimal pairs
# and LAMBADA's last words at batch 16, a line for each task and policy. What is there is not done again.
set -euo pipefail
name=$1 model=$2 calibration=$3
cd "$(dirname "${BASH_SOURCE[0]}")/.."
out=bench/results/tasks-$name.jsonl
touch "$out"
arguments=(--model "$model" --batch 16)
[ "$calibration" = - ] || arguments+=(--calibration "$calibration")
case $name in # read about 0.7 and 0.8 (nano: 0.75 and 0.85) of top-k's experts on text
  small) policies=(topk adaptive:open=0.03 oea:k0=5 adaptive:open=0.07 oea:k0=4 xshare:budget=34) ;;
  nano) policies=(topk adaptive:open=0.04 oea:k0=3 adaptive:open=0.18 oea:k0=2 xshare:budget=16) ;;
  *) echo "no study of $name: small or nano" >&2 && exit 2 ;;
esac
for task in blimp lambada; do
  for policy in "${policies[@]}"; do
    if grep -q "\"task\": \"$task:.*\"policy\": \"$policy\"" "$out"; then continue; fi
    result=$("${THERMOE_PROGRAM:-build/thermoe}" eval "${arguments[@]}" --task "$task:data/text/$task.jsonl.gz" \
      --policy "$policy" --json -)
    printf '%s\n' "$result" | tr -s '\n ' ' ' >>"$out"
    echo >>"$out"
  done
done
