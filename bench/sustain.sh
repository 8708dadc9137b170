#!/usr/bin/env bash
# bench/sustain.sh [OUT_DIR [SECONDS]]
# A GPU at full load, each phase for so long (60): prefill of 4,096 tokens at the power cap, in bf16 and fp8, and decoding of
# 256 sequences, in bf16, int8 and int4, under a power and a latency target. Random weights of Qwen3-30B-A3B's shape,
# eight layers. For each JSON, a line a tick, and plots (docs/gpu-runtime.md). About ten minutes; needs build/thermoe.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
out=${1:-build/gpu-results} seconds=${2:-60}
mkdir -p "$out"

sustain() { # NAME ARGUMENT...
  local to=$out/sustain-$1
  shift
  build/thermoe sustain --model synthetic:qwen3-30b-a3b:layers=8 --seconds "$seconds" "$@" --json "$to.json" \
    --csv "$to.csv" --plot "$to.svg"
}

sustain prefill --work prefill --batch 8 --prompt-tokens 512 --variants bf16,fp8 --slope-price 0.05
sustain decode --work decode --batch 256 --context 512 --variants bf16,int8,int4 --power-target-w 450 \
  --latency-target-us 400 --open-price 0.05
