// TelemetryRecorder: writes samples as a trace that open_replay_source reads back.
#pragma once

#include <memory>
#include <string>
#include <string_view>

#include "thermoe/hardware_state.h"

namespace thermoe {

// A CSV file in the format of data/telemetry/README.md. Times are written since the first sample,
// missing readings as empty cells, a lost device as a row without readings; every number so that it
// reads back as the same double. Each row reaches the file at once: an interrupted recording is a
// shorter trace. Not thread-safe.
class TelemetryRecorder {
 public:
  // Creates or empties the file. Throws IoError.
  explicit TelemetryRecorder(const std::string& path);
  ~TelemetryRecorder();
  TelemetryRecorder(const TelemetryRecorder&) = delete;
  TelemetryRecorder& operator=(const TelemetryRecorder&) = delete;
  // A sample not later than the last one written is left out. `phase` says what ran, for people; it
  // must not hold commas, quotes or line ends. Throws IoError where the row can't be written,
  // InvalidArgument for such a phase.
  void add(const HardwareState& state, std::string_view phase = {});

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace thermoe
