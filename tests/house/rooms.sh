#!/usr/bin/env bash
# rooms.sh SOURCE_DIR: the room rule (rooms.txt), what installed headers may include, and file lengths.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
cd "$1"
{
  grep -v '^#' "$here/rooms.txt" | sed 's/^/R /'
  mapfile -t files < <(find src include/thermoe app -type f \( -name '*.h' -o -name '*.cpp' -o \
    -name '*.cuh' -o -name '*.cu' \) | LC_ALL=C sort)
  wc -l "${files[@]}" | sed -nE 's|^ *([0-9]+) (.*/.*)|F \1 \2|p'
  grep -HnoE '^[[:space:]]*#[[:space:]]*include[[:space:]]*[<"][^>"]+[>"]' "${files[@]}" |
    sed -E "s|^([^:]+):([0-9]+):.*([<\"][^>\"]+).*|I \2 \1 \3|"
} | awk '
  function fault(text) { print text; faults++ }
  # The room that a path under src/ stands in ("kernels/cpu" has two parts); "" for none.
  function room_of(path,    parts, pair) {
    split(path, parts, "/")
    pair = parts[1] "/" parts[2]
    if (pair in rank) return pair
    return parts[1] in rank ? parts[1] : ""
  }
  $1 == "R" {
    room = $2; sub(/:$/, "", room)
    rank[room] = ++rooms
    for (i = 3; i <= NF; i++) owner["thermoe/" $i ".h"] = room
    next
  }
  $1 == "F" {
    files++
    if ($2 > 600) fault($3 ": " $2 " lines; split it by algorithm (about 400 at most)")
    else if ($2 > 400) print "note: " $3 ": " $2 " lines, over 400"
    if ($3 ~ /^include\//) {
      header = $3; sub(/^include\//, "", header)
      if (!(header in owner)) fault($3 ": belongs to no room; add it to tests/house/rooms.txt")
      else if (owner[header] != "") seen[header] = 1
    }
    next
  }
  {
    line = $2; file = $3; angled = substr($4, 1, 1) == "<"; target = substr($4, 2)
    installed = file ~ /^include\//
    if (installed) {
      own = file; sub(/^include\//, "", own); room = owner[own]
      if (!(target in owner) && (!angled || target ~ /[\/.]/) && target !~ /^std(def|int)\.h$/)
        fault(file ":" line ": installed headers include only thermoe/ and the standard library, not " target)
    } else if (file ~ /^src\//) {
      path = file; sub(/^src\//, "", path); room = room_of(path)
      if (room == "") { fault(file ": stands in no room of tests/house/rooms.txt"); next }
    } else next  # the program may use every room
    wanted = (target in owner) ? owner[target] : angled ? "" : room_of(target)
    if (wanted != "" && rank[wanted] > rank[room])
      fault(file ":" line ": room " room " may not include " target " (room " wanted " comes after it)")
  }
  END {
    for (header in owner) if (!(header in seen)) fault("tests/house/rooms.txt names " header ", which is not there")
    printf "%d files in %d rooms, %d faults\n", files, rooms, faults
    exit faults > 0
  }'
