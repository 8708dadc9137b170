#!/usr/bin/env bash
# bench/variants.sh NAME QUANTISED_DIR BASE_DIR CALIBRATION|- [BATCH...]: what bench/results/variants-NAME-b*.{csv,json,svg}
# were made with: precision as a routing decision (int8,int4 from one stored copy) beside static int8, static int4, static
# and batch-wise mixes of both, and the published policies on each, all against the base checkpoint's top-k in bf16, on the
# second halves of the four evaluation texts. QUANTISED_DIR is of
#   thermoe quantize --model BASE_DIR --out QUANTISED_DIR --calibrate data/text/{wikitext103-valid,wiki,techdocs,code}.txt
# (four options; 8,192 tokens of the texts' beginnings), CALIBRATION of thermoe calibrate-experts on the same beginnings.
# NAME is small (8 of 64 experts) or nano (4 of 32). Resumable. Without batches: 1 4 16 64.
set -euo pipefail
name=$1 model=$2 base=$3 calibration=$4
shift 4
cd "$(dirname "${BASH_SOURCE[0]}")/.."
texts=()
for text in wikitext103-valid wiki techdocs code; do texts+=(--text "data/text/$text.txt"); done
[ "$calibration" = - ] || texts+=(--calibration "$calibration")

study() { # BATCH CONTEXT POLICY...
  local batch=$1 context=$2 policies=()
  shift 2
  local policy
  for policy in "$@"; do policies+=(--policies "$policy"); done
  "${THERMOE_PROGRAM:-build/thermoe}" frontier --model "$model" --base "$base" "${texts[@]}" --batch "$batch" \
    --context "$context" --max-tokens 8192 --part 2/2 --threads "${THERMOE_THREADS:-0}" --variants int8,int4 \
    --variants int8 --variants int4 "${policies[@]}" --out "${THERMOE_RESULTS:-bench/results}/variants-$name-b$batch"
}

# few: for batch 4, which uses 24 (small) and 11 (nano) experts; many: for more.
case $name in
  small) few=('oea:k0=3,5' 'xshare:budget=14,18') many=('oea:k0=3,5' 'xshare:budget=32,44') ;;
  nano) few=('oea:k0=2,3' 'xshare:budget=7,9') many=('oea:k0=2,3' 'xshare:budget=17,23') ;;
  *)
    echo "no study of $name: small or nano" >&2
    exit 2
    ;;
esac
mixes=('threshold:theta=0.05,0.1,0.2,0.4' 'staticmix:frac=0.25,0.5')

[ $# -gt 0 ] || set -- 1 4 16 64
for batch in "$@"; do
  case $batch in
    1) study 1 512 'adaptive:min_k=1,open=0.001,0.003,0.006,0.012,0.025,0.05' "${mixes[@]}" fewer:k=6,7 topp:p=0.85 ;;
    4) study 4 512 'adaptive:open=0.002,0.006,0.012,0.025,0.045,0.08' "${mixes[@]}" "${few[@]}" ;;
    16) study 16 512 'adaptive:open=0.004,0.012,0.03,0.05,0.08,0.12' "${mixes[@]}" "${many[@]}" ;;
    64) study 64 128 'adaptive:open=0.008,0.025,0.06,0.12,0.2,0.3' "${mixes[@]}" "${many[@]}" ;;
    *) echo "no study of batch $batch: 1, 4, 16 or 64" >&2 && exit 2 ;;
  esac
done
