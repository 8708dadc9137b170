// The telemetry source that plays a recorded trace back in virtual time.
#include <fmt/format.h>

#include <cmath>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "telemetry/trace_csv.h"
#include "thermoe/error.h"
#include "thermoe/gpu_system_monitor.h"

namespace thermoe {
namespace {

class ReplaySource final : public TelemetrySource {
 public:
  ReplaySource(const std::string& path, double period_s)
      : file_(std::filesystem::path(path).filename().string()),
        period_s_(period_s),
        rows_(read_trace_csv(path)) {}

  std::string name() const override { return "replay:" + file_; }

  DeviceInfo device() const override {
    DeviceInfo info;
    info.name = "replay of " + file_;
    info.simulated = true;
    return info;
  }

  HardwareState sample() override {
    // Multiplied, not summed up, so that long replays don't drift; the slack lets a row at exactly
    // a multiple of the period be reached in spite of rounding.
    const double time_s =
        rows_.front().time_s + static_cast<double>(calls_) * period_s_ * (1.0 + 1e-12);
    while (row_ + 1 < rows_.size() && rows_[row_ + 1].time_s <= time_s) ++row_;
    if (row_ + 1 < rows_.size()) ++calls_;
    return rows_[row_];
  }

 private:
  std::string file_;
  double period_s_;
  std::vector<HardwareState> rows_;
  size_t row_ = 0;
  uint64_t calls_ = 0;
};

}  // namespace

std::unique_ptr<TelemetrySource> open_replay_source(const std::string& path, double period_s) {
  if (!(period_s > 0.0) || !std::isfinite(period_s)) {
    throw InvalidArgument(
        fmt::format("open_replay_source: period_s is {}; choose a positive time", period_s));
  }
  return std::make_unique<ReplaySource>(path, period_s);
}

}  // namespace thermoe
