#include "thermoe/telemetry_recorder.h"

#include <fmt/format.h>

#include <cerrno>
#include <cstring>
#include <fstream>
#include <optional>

#include "telemetry/trace_columns.h"
#include "thermoe/error.h"

namespace thermoe {

struct TelemetryRecorder::Impl {
  std::string path;
  std::ofstream file;
  std::optional<double> first_s;
  double last_s = 0;

  void write(const std::string& line) {
    file << line << '\n' << std::flush;
    if (!file) throw IoError(path, "can't be written to; is the disk full?");
  }
};

TelemetryRecorder::TelemetryRecorder(const std::string& path) : impl_(std::make_unique<Impl>()) {
  impl_->path = path;
  impl_->file.open(path, std::ios::trunc);
  if (!impl_->file)
    throw IoError(path, fmt::format("can't be created: {}; check the folder and its permissions",
                                    std::strerror(errno)));
  std::string header = fmt::format("{},{}", kTraceTime, kTracePhase);
  for (const TraceColumn& column : kTraceColumns) header += fmt::format(",{}", column.name);
  impl_->write(header + fmt::format(",{}", kTraceReasons));
}

TelemetryRecorder::~TelemetryRecorder() = default;

void TelemetryRecorder::add(const HardwareState& state, std::string_view phase) {
  if (phase.find_first_of(",\"\r\n") != std::string_view::npos)
    throw InvalidArgument(
        fmt::format("phase '{}' holds a comma, a quote or a line end; leave them out", phase));
  if (impl_->first_s && state.time_s <= impl_->last_s) return;
  if (!impl_->first_s) impl_->first_s = state.time_s;
  impl_->last_s = state.time_s;
  std::string line = fmt::format("{},{}", state.time_s - *impl_->first_s, phase);
  for (const TraceColumn& column : kTraceColumns) {
    const std::optional<double>& value = state.*(column.member);
    line += state.present && value ? fmt::format(",{}", *value) : ",";
  }
  line += state.present && state.throttle_reasons ? fmt::format(",{}", *state.throttle_reasons)
                                                  : std::string(",");
  impl_->write(line);
}

}  // namespace thermoe
