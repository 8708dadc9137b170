// GpuSystemMonitor: polls a telemetry source and publishes the newest HardwareState.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "thermoe/hardware_state.h"

namespace thermoe {

// Where telemetry comes from. Not thread-safe: one thread (the monitor's) calls sample().
class TelemetrySource {
 public:
  virtual ~TelemetrySource() = default;
  // A short name: "nvml:0", "replay:h100-sxm-700w.csv", "twin".
  virtual std::string name() const = 0;
  virtual DeviceInfo device() const = 0;
  // The state now. A field that can't be read is absent; a device that is gone gives present ==
  // false (and may come back). Never throws after construction.
  virtual HardwareState sample() = 0;
};

// The NVIDIA driver's management library, loaded at run time from libnvidia-ml.so.1.
// Throws NvmlError: no library, no such device, or a driver too old for the calls needed.
std::unique_ptr<TelemetrySource> open_nvml_source(int device_index = 0);
// How many devices the driver sees; 0 where there is no driver. Never throws.
int count_nvml_devices();

// Replays a recorded trace (CSV, columns as data/telemetry's README says), as fast as it is polled
// at `period_s` of trace time per sample; after the last row it stays there.
// Throws IoError naming the file, line and column.
std::unique_ptr<TelemetrySource> open_replay_source(const std::string& path, double period_s = 0.05);

struct MonitorSettings {
  double rate_hz = 20.0;  // of the polling thread; in [0.1, 1000]
};

// Owns a source and publishes what it says. state() may be called from any thread, any time, and
// neither locks nor allocates. Polling is done by a thread of its own between start() and stop(),
// or by the owner through poll() (virtual time); not both at once.
class GpuSystemMonitor {
 public:
  explicit GpuSystemMonitor(std::unique_ptr<TelemetrySource> source, MonitorSettings settings = {});
  ~GpuSystemMonitor();
  GpuSystemMonitor(const GpuSystemMonitor&) = delete;
  GpuSystemMonitor& operator=(const GpuSystemMonitor&) = delete;

  void start();
  void stop();
  // Samples once, publishes and returns it. Throws InvalidArgument while the thread runs.
  HardwareState poll();
  // The newest published state (present == false before the first).
  HardwareState state() const noexcept;
  DeviceInfo device() const;
  std::string source_name() const;

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace thermoe
