#!/usr/bin/env bash
# bench/record_gpu.sh [--short] OUT_DIR : records a GPU's telemetry under bench/gpu_load.py, some three minutes on an idle
# GPU 0:
#   monitor.csv           the trace
#   monitor.json          the monitor's summary: its own cost (thread_cpu_frac, skipped_ticks), which readings there were
#   load.json             what ran when, how fast
#   reads-idle.json, reads-loaded.json   the costs of the driver's calls and of reading a snapshot
#   doctor.json           what the machine has
#   load-for-reads.json   the load during reads-loaded
# --short: the first three only, under 5 s of nothing, 15 s of products, 5 s of nothing: below a minute.
# THERMOE_BUILD is the build folder (build), THERMOE_LIBRARIES one with shared libraries that this machine lacks, PYTHON
# one with PyTorch (python3).
set -euo pipefail
short=()
if [[ ${1:-} == --short ]]; then
  short=(--short)
  shift
fi
out=${1:?usage: bench/record_gpu.sh [--short] OUT_DIR}
mkdir -p "$out"
out=$(cd "$out" && pwd)
cd "$(dirname "${BASH_SOURCE[0]}")/.."
build=${THERMOE_BUILD:-build} python=${PYTHON:-python3}
children=()
trap 'kill "${children[@]}" 2>/dev/null || true' EXIT

# Not for Python, which has its own.
ours=(env LD_LIBRARY_PATH="${THERMOE_LIBRARIES:-}${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}")
reads() {
  "${ours[@]}" "$build/bench/telemetry_reads" --benchmark_min_time=0.2 --benchmark_out="$1" --benchmark_out_format=json
}

if [[ ${#short[@]} -eq 0 ]]; then
  "${ours[@]}" "$build/thermoe" doctor --json "$out/doctor.json"
  reads "$out/reads-idle.json"
fi

"${ours[@]}" "$build/thermoe" monitor --telemetry nvml:0 --rate-hz 20 --csv "$out/monitor.csv" \
  --phase-file "$out/phase" --json - >"$out/monitor.jsonl" &
monitor=$!
children+=("$monitor")
"$python" bench/gpu_load.py "${short[@]}" --phase-file "$out/phase" | tee "$out/load.json"
kill -INT "$monitor"
wait "$monitor"
children=()
tail -n 1 "$out/monitor.jsonl" | tee "$out/monitor.json"
rm -f "$out/monitor.jsonl" "$out/phase"
if [[ ${#short[@]} -gt 0 ]]; then exit; fi

"$python" bench/gpu_load.py --gemm-only-s 45 >"$out/load-for-reads.json" &
load=$!
children+=("$load")
sleep 15 # PyTorch loads, the clock settles
reads "$out/reads-loaded.json"
wait "$load"
children=()
