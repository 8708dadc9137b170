#!/usr/bin/env bash
# finds_faults.sh RULE SOURCE_DIR WORK_DIR: breaks copies of the tree, one fault at a time, and checks
# that RULE.sh passes on the whole copy and names every fault.
set -euo pipefail
rule=$1 source=$2 work=$3
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)

fresh() {
  rm -rf "$work"
  mkdir -p "$work"
  cp -r "$source/include" "$source/src" "$source/app" "$work/"
}
# expect_fault FILE TEXT MESSAGE: with TEXT appended to FILE the rule fails and says MESSAGE.
expect_fault() {
  fresh
  mkdir -p "$(dirname "$work/$1")"
  printf '%b\n' "$2" >>"$work/$1"
  local output
  if output=$(bash "$here/$rule.sh" "$work"); then
    echo "$rule.sh did not see: $2 in $1"
    exit 1
  fi
  case $output in
    *"$3"*) ;;
    *)
      printf 'expected "%s", got:\n%s\n' "$3" "$output"
      exit 1
      ;;
  esac
}

fresh
bash "$here/$rule.sh" "$work" >/dev/null || {
  echo "$rule.sh finds faults in the unbroken tree"
  exit 1
}
case $rule in
  rooms)
    expect_fault src/core/extra.cpp '#include "thermoe/governor.h"' 'may not include thermoe/governor.h'
    expect_fault src/cost/extra.h '  # include "model/json.h"' 'may not include model/json.h'
    expect_fault src/kernels/cpu/extra.cpp '#include "experts/extra.h"' 'room kernels/cpu may not include'
    expect_fault include/thermoe/error.h '#include <fmt/core.h>' 'only thermoe/ and the standard library'
    expect_fault include/thermoe/views.h '#include "thermoe/moe_layer.h"' 'may not include thermoe/moe_layer.h'
    expect_fault include/thermoe/stray.h '#pragma once' 'belongs to no room'
    expect_fault src/attic/extra.cpp '#include <vector>' 'stands in no room'
    expect_fault src/core/long.cpp "$(printf '//\\n%.0s' {1..700})" 'split it by algorithm'
    ;;
  paths)
    # spelled in two halves, so that this file passes its own rule
    expect_fault src/core/extra.cpp "// see /ho""me/someone/notes" 'extra.cpp'
    expect_fault README.md "run /t""mp/out" 'README.md'
    ;;
esac
echo "$rule.sh finds every fault"
