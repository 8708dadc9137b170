// A recorded trace prepared for comparing the twin with it: its phases, the board's power between
// samples, and the memory's share of that power.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "thermoe/digital_twin.h"
#include "trace_works.h"

namespace thermoe::app {

// Rows [begin, end) under one name, one after the other; where there are no names, between changes
// of the power.
struct TracePhase {
  std::string name;  // empty where the trace names none
  size_t begin = 0, end = 0;
  std::optional<TraceWork> work;  // absent: not known
};

struct RecordedTrace {
  std::string path;
  std::vector<HardwareState> rows;
  std::vector<TracePhase> phases;
  std::vector<size_t> phase_of;  // [rows]
  // [rows] Mean power of the board since the row before: from the energy counter where it moves,
  // else the instantaneous reading, else the averaged one, else as before.
  std::vector<double> power_w;
  bool from_counter = false;  // most rows have it from the counter

  double start_s() const { return rows.front().time_s; }
  double duration_s() const { return rows.back().time_s - rows.front().time_s; }
};

// Throws IoError as the trace's reader does, and where there is no power or no temperature at all.
RecordedTrace read_recorded_trace(const std::string& path, const TraceWorks& works,
                                  const TwinParameters& device);

// The memory's share of the power above idle. Where the work is known, the model's; else read from
// the two temperature sensors; else a half.
struct MemoryShares {
  // [rows] What is known at each row from the rows up to it.
  std::vector<double> known_so_far;
  // [rows] What a forecast may use for that row whenever it starts; absent where only the sensors
  // tell: then what they said last at its start is held through the same phase, and a half is taken
  // for a later one.
  std::vector<std::optional<double>> known_ahead;
  // [phases] From all of the phase's rows, for phases of unknown work.
  std::vector<double> of_phase;
  std::vector<bool> work_known;  // [rows]
};
inline constexpr double kUnknownShare = 0.5;
MemoryShares memory_shares(const RecordedTrace& trace, const TwinParameters& device);

// Power above this multiple of the idle power is no idling.
inline constexpr double kActiveFactor = 1.5;

}  // namespace thermoe::app
