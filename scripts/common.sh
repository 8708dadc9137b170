# shellcheck shell=bash
# Sourced by the scripts: strict mode, the checkout's top as working folder, small helpers.
# Everything they make stays in the checkout (but apt's packages).
set -euo pipefail
top=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
# shellcheck disable=SC2034  # for scripts that take paths
caller_dir=$PWD
cd "$top"
name=${0##*/}

say() { printf '%s: %s\n' "$name" "$*"; }
warn() { printf '%s: %s\n' "$name" "$*" >&2; }
die() {
  warn "$*"
  exit 1
}
have() { command -v "$1" >/dev/null 2>&1; }
jobs_count() { nproc 2>/dev/null || echo 2; }

# run_logged LOG COMMAND...: quiet; where it fails, shows the log's end.
run_logged() {
  local log=$1
  shift
  mkdir -p "$(dirname "$log")"
  local status=0
  "$@" >"$log" 2>&1 </dev/null || status=$?
  [ "$status" != 0 ] || return 0
  warn "failed: $* (the end of $log follows)"
  tail -n 60 "$log" >&2
  return "$status"
}

# configure PRESET [CMAKE ARGUMENT...]: once; afterwards only where arguments are given, as ninja
# looks after the rest by itself. A new release build compiles many files at a time, in half the
# time; not with THERMOE_WERROR=ON, as g++'s warnings about bounds are wrong where much is inlined.
configure() {
  local preset=$1 dir=build-$1
  shift
  [ "$preset" = release ] && dir=build
  if [ "$preset" = release ] && [ ! -f build/CMakeCache.txt ] && [ "${THERMOE_WERROR:-OFF}" != ON ]; then
    set -- -DCMAKE_UNITY_BUILD=ON "$@"
  fi
  if [ -f "$dir/build.ninja" ] && [ $# -eq 0 ]; then return 0; fi
  run_logged "$dir/logs/configure.log" cmake --preset "$preset" "$@" || return
  grep -ho 'thermoe: without .*' "$dir/logs/configure.log" | sed "s/^thermoe/$name/" || true
}

# build DIR TARGET...: with ninja's one-line progress on a terminal, else quiet.
build() {
  local dir=$1
  shift
  if [ -t 1 ]; then
    cmake --build "$dir" --parallel "$(jobs_count)" --target "$@"
  else
    run_logged "$dir/logs/build.log" cmake --build "$dir" --parallel "$(jobs_count)" --target "$@"
  fi
}

if have ccache; then
  export CMAKE_CXX_COMPILER_LAUNCHER=ccache CCACHE_DIR=${CCACHE_DIR:-$top/.cache/ccache}
fi
