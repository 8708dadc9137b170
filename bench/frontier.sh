#!/usr/bin/env bash
# bench/frontier.sh NAME MODEL_DIR [CALIBRATION]: what bench/results/frontier-NAME-b*.{csv,json,svg} were made with.
# Every policy over its knobs on the second halves of the evaluation texts (small: of two), of which the calibration
# (thermoe calibrate-experts, 2,048 tokens of their beginnings) saw nothing. Resumable.
set -euo pipefail
name=$1 model=$2 calibration=${3:-}
cd "$(dirname "${BASH_SOURCE[0]}")/.."
names=(wikitext103-valid wiki techdocs code)
[ "$name" != small ] || names=(wikitext103-valid wiki)
texts=()
for text in "${names[@]}"; do texts+=(--text "data/text/$text.txt"); done
[ -z "$calibration" ] || texts+=(--calibration "$calibration")

study() { # BATCH CONTEXT TOKENS POLICY...
  local batch=$1 context=$2 tokens=$3 policies=()
  shift 3
  local policy
  for policy in "$@"; do policies+=(--policies "$policy"); done
  "${THERMOE_PROGRAM:-build/thermoe}" frontier --model "$model" "${texts[@]}" --batch "$batch" --context "$context" \
    --max-tokens "$tokens" --part 2/2 "${policies[@]}" --out "bench/results/frontier-$name-b$batch"
}

case $name in
  small)
    study 16 512 8192 adaptive:open=0.01,0.02,0.04,0.07,0.11,0.18 oea:k0=2..6 xshare:budget=30,38,44 lynx:keep=38,46 \
      lynx:alpha=1,4 sere:primary=3,5 cacheprior:lambda=0.5,size=32,44 fewer:k=4,6 topp:p=0.6,0.85 minp:p=0.1,0.3 \
      capdrop:factor=1 capexpand:factor=1 tileround:tile=4
    study 64 128 8192 adaptive:open=0.03,0.06,0.12,0.2 oea:k0=1..4 xshare:budget=40,50
    ;;
  *)
    study 16 512 8192 adaptive:open=0.01,0.02,0.04,0.08,0.13 oea:k0=1..3 xshare:budget=14,17,20,23 \
      lynx:keep=18,22 lynx:alpha=0.5,1,4 sere:primary=1,2,3 cacheprior:lambda=0.5,size=16,22 fewer:k=2,3 \
      topp:p=0.6,0.85 minp:p=0.1,0.3 capdrop:factor=1 capexpand:factor=1 tileround:tile=2
    study 64 128 8192 adaptive:open=0.05,0.1,0.2,0.35 oea:k0=1..3 xshare:budget=20,25 lynx:keep=26 lynx:alpha=1
    study 1 512 4096 adaptive:min_k=1,open=0.03,0.1 fewer:k=2,3
    study 4 512 4096 adaptive:open=0.02,0.06 oea:k0=2,3
    study 256 32 8192 adaptive:open=0.3,0.9 oea:k0=1,2
    ;;
esac
