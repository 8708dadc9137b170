#!/usr/bin/env bash
# bench/frontier.sh NAME MODEL_DIR CALIBRATION|- [BATCH...]: what bench/results/frontier-NAME-b*.{csv,json,svg} were
# made with. Every policy over its knobs on the second halves of the four evaluation texts, of which the calibration
# (thermoe calibrate-experts, 2,048 tokens of their beginnings; - for the model's own file) saw nothing. NAME is small
# (8 of 64 experts) or nano (4 of 32). Resumable. Without batches: 1 4 16 64 256.
set -euo pipefail
name=$1 model=$2 calibration=$3
shift 3
cd "$(dirname "${BASH_SOURCE[0]}")/.."
texts=()
for text in wikitext103-valid wiki techdocs code; do texts+=(--text "data/text/$text.txt"); done
[ "$calibration" = - ] || texts+=(--calibration "$calibration")

study() { # BATCH CONTEXT TOKENS_PER_TEXT POLICY...
  local batch=$1 context=$2 tokens=$3 policies=()
  shift 3
  local policy
  for policy in "$@"; do policies+=(--policies "$policy"); done
  "${THERMOE_PROGRAM:-build/thermoe}" frontier --model "$model" "${texts[@]}" --batch "$batch" --context "$context" \
    --max-tokens "$tokens" --part 2/2 "${policies[@]}" --out "bench/results/frontier-$name-b$batch"
}

# alone: what chooses token by token; few: for batch 4, which uses 24 (small) and 11 (nano) experts; many: for more.
case $name in
  small)
    alone=('fewer:k=4,5,6' 'topp:p=0.6,0.85' 'minp:p=0.1,0.3')
    few=(oea:k0=2..6 'xshare:budget=14,16,18,20' 'lynx:keep=17,20' 'lynx:alpha=1,4' 'sere:primary=3,4,5'
      'cacheprior:lambda=0.5,size=12,18' capdrop:factor=1 capexpand:factor=1)
    many=(oea:k0=1..6 'xshare:budget=26,32,38,44,50' 'lynx:keep=38,46' 'lynx:alpha=1,4' 'sere:primary=3,4,5'
      'cacheprior:lambda=0.5,size=32,44' capdrop:factor=1 capexpand:factor=1 tileround:tile=4)
    ;;
  nano)
    alone=('fewer:k=2,3' 'topp:p=0.6,0.85' 'minp:p=0.1,0.3')
    few=(oea:k0=1..3 'xshare:budget=6,7,8,9' 'lynx:keep=8,9' 'lynx:alpha=0.5,1,4' 'sere:primary=1,2,3'
      'cacheprior:lambda=0.5,size=6,9' capdrop:factor=1 capexpand:factor=1)
    many=(oea:k0=1..3 'xshare:budget=11,14,17,20,23,26' 'lynx:keep=18,22,26' 'lynx:alpha=0.5,1,4'
      'sere:primary=1,2,3' 'cacheprior:lambda=0.5,size=16,22' capdrop:factor=1 capexpand:factor=1 tileround:tile=2)
    ;;
  *)
    echo "no study of $name: small or nano" >&2
    exit 2
    ;;
esac

[ $# -gt 0 ] || set -- 1 4 16 64 256
for batch in "$@"; do
  case $batch in
    1) study 1 512 8192 'adaptive:min_k=1,open=0.004,0.008,0.015,0.03,0.06' "${alone[@]}" ;;
    4) study 4 512 8192 'adaptive:open=0.005,0.01,0.02,0.04,0.08,0.15' "${alone[@]}" "${few[@]}" ;;
    16) study 16 512 8192 'adaptive:open=0.01,0.02,0.04,0.07,0.11,0.18,0.28,0.4' "${alone[@]}" "${many[@]}" ;;
    64) study 64 128 8192 'adaptive:open=0.03,0.06,0.12,0.2,0.3,0.45,0.7,1.1' "${alone[@]}" "${many[@]}" ;;
    256) study 256 32 8192 'adaptive:open=0.1,0.2,0.4,0.7,1.2,2,3.5' "${many[@]}" ;;
    *) echo "no study of batch $batch: 1, 4, 16, 64 or 256" >&2 && exit 2 ;;
  esac
done
