// A recorded telemetry trace, read from CSV.
#pragma once

#include <string>
#include <vector>

#include "thermoe/hardware_state.h"

namespace thermoe {

// The rows of the trace at `path`, at least one, time_s never decreasing; data/telemetry/README.md
// describes the format. Throws IoError naming the file, line and column.
std::vector<HardwareState> read_trace_csv(const std::string& path);

}  // namespace thermoe
