// What `thermoe monitor` follows: one device, its samples, their sums.
#pragma once

#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>

#include "thermoe/energy_meter.h"
#include "thermoe/gpu_system_monitor.h"
#include "thermoe/telemetry_recorder.h"
#include "thermoe/throttle_meter.h"

namespace thermoe::app {

// Mean and highest of one reading over the samples that had it.
struct ReadingSummary {
  double sum = 0, highest = 0;
  int64_t count = 0;
  void add(const std::optional<double>& value);
  std::optional<double> mean() const;
};

// Not thread-safe; the monitor's own thread does the sampling.
class MonitoredDevice {
 public:
  // Starts sampling. `recording`: the CSV file to write, or empty; `phase_file`: whose first line
  // names the phase of a row, where it is there, or empty.
  MonitoredDevice(int gpu, std::unique_ptr<TelemetrySource> source, double rate_hz,
                  const std::string& recording, std::string phase_file = {});
  // Takes the newest sample; true where it is one not seen before.
  bool update();

  int gpu() const { return gpu_; }
  const HardwareState& state() const { return state_; }
  const GpuSystemMonitor& monitor() const { return monitor_; }
  EnergyReading energy() const { return meter_.reading(); }
  ThrottleReading throttled() const { return throttle_.reading(); }
  const ReadingSummary& power() const { return power_; }
  const ReadingSummary& temperature() const { return temperature_; }
  const ReadingSummary& clock() const { return clock_; }

 private:
  int gpu_;
  GpuSystemMonitor monitor_;
  std::optional<TelemetryRecorder> recorder_;
  std::string phase_file_;
  EnergyMeter meter_;
  ThrottleMeter throttle_;
  HardwareState state_;
  bool any_ = false;
  ReadingSummary power_, temperature_, clock_;
};

// "software power cap, thermal" of kThrottle* bits; "-" where none is set.
std::string throttle_text(uint64_t reasons);

// One line of JSON: the newest sample (an absent reading is null), of the device `gpu`.
nlohmann::ordered_json sample_json(const MonitoredDevice& device);
// What the session saw in all.
nlohmann::ordered_json summary_json(const MonitoredDevice& device);

}  // namespace thermoe::app
