// GpuSystemMonitor: polls a telemetry source and publishes the newest HardwareState.
#pragma once

#include <cstdint>
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
  // false (and may come back). What a source does not say in `status`, the monitor fills in. Never
  // throws after construction.
  virtual HardwareState sample() = 0;
};

// One GPU through the NVIDIA driver's management library, loaded at run time: libnvidia-ml.so.1, or
// the file that the environment variable THERMOE_NVML_LIBRARY names. `device_index` is NVML's (PCI
// order, not CUDA_VISIBLE_DEVICES').
//
// sample() reads power, memory temperature and the quick throttle counters in one call, the rest
// one by one: a reading that is not supported, or whose function this driver lacks, is absent and
// its status says why. Whatever proves slow (0.15 ms and more, by its own calls) is asked for less
// often, so that all of that takes below 1 % of the time: the energy counter 0.45 %, the slow
// throttle counters 0.15 %, activity (GPM: Hopper and newer, not with MIG; twice a second) 0.05 %.
// In between a reading keeps its value and its age grows. time_s is when the quick readings were
// taken; a value's age is by the driver's time stamp, unless the wall clock was set since.
//
// A lost device (or a driver that answers nothing) gives present == false; the library is then
// initialised again and the same board (by UUID) looked for after 0.25 s, 0.5 s, ... up to every
// 8 s. On an H100 (driver 580) a sample takes 0.1 ms of processor time, in the driver. Energy takes
// 3 to 4 ms more, about every 0.8 s; the counters of the hardware's power brake and thermal
// slowdown take 1 to 2 ms, about every second.
//
// Throws NvmlError, with the remedy: no library, no such device, or a driver too old for the calls
// needed.
std::unique_ptr<TelemetrySource> open_nvml_source(int device_index = 0);
// How many devices the driver sees; 0 where there is no driver. Never throws.
int count_nvml_devices();

// What NVML offers on this machine, for diagnosis.
struct TelemetryProbe {
  struct Device {
    std::string name;
    std::string uuid;
    std::vector<std::string> available_fields;  // HardwareState's members read just now
    std::vector<std::string> missing_fields;    // its other readings
  };
  bool library_found = false;
  std::string library;         // the file loaded, or the name that was looked for
  std::string driver_version;  // empty where it could not be read
  std::vector<Device> devices;
  std::string problem;  // one line with the remedy; empty where all is well
};
// Loads NVML, reads every device (a tenth of a second each) and lets go of it again. Never throws:
// what is wrong is in `problem`.
TelemetryProbe probe_nvml();

// Replays a recorded trace (CSV; data/telemetry/README.md names the columns) in virtual time: the
// first sample() is the first row, and each further call moves on by `period_s` of the trace's time
// and returns the newest row not after it, so consecutive samples may be the same row and time_s is
// that row's own. After the last row it stays there. A row without any reading is a lost device.
// Where the trace has no column sm_clock_max_mhz, that reading is the highest SM clock in the
// trace. Throws IoError naming the file, line and column; InvalidArgument unless period_s > 0.
std::unique_ptr<TelemetrySource> open_replay_source(const std::string& path,
                                                    double period_s = 0.05);

struct MonitorSettings {
  double rate_hz = 20.0;  // of the polling thread; in [0.1, 1000]
};

// What the monitor itself has done and cost, since it was built.
struct MonitorStats {
  uint64_t samples = 0;        // published
  uint64_t skipped_ticks = 0;  // ticks of the polling thread given up to keep its load bounded
  uint64_t failures = 0;       // samples in which the source broke its contract and threw
  double sampling_s = 0.0;     // wall time spent inside the source
  double thread_s = 0.0;       // wall time for which the polling thread has run
  double thread_cpu_s = 0.0;   // processor time that it used, inside the driver's calls as well

  // Of one core; 0 before the thread has run.
  double thread_cpu_frac() const noexcept { return thread_s > 0.0 ? thread_cpu_s / thread_s : 0.0; }
};

// Owns a source and publishes what it says. Polling is done by a thread of its own between start()
// and stop(), or by the owner through poll() (virtual time); not both at once.
//
// Thread safety: state(), stats(), device() and source_name() may be called from any thread at any
// time. state() neither locks, blocks, makes system calls nor allocates, and does not wait for a
// writer that was interrupted (tens of nanoseconds). start(), stop() and poll() may be called from
// any thread but the source's own, and wait for each other.
//
// The polling thread samples at absolute deadlines, start + n / rate_hz, the first at once. It
// spends at most a tenth of its time inside the source: after a slow call it skips as many
// deadlines as that takes and falls back in step (a source that takes 20 ms is asked every 200 ms).
// A pause never exceeds 10 s, so a driver that hangs for longer than about a second does exceed the
// tenth.
class GpuSystemMonitor {
 public:
  // Throws InvalidArgument: no source, or a rate outside its range.
  explicit GpuSystemMonitor(std::unique_ptr<TelemetrySource> source, MonitorSettings settings = {});
  // Stops the thread.
  ~GpuSystemMonitor();
  GpuSystemMonitor(const GpuSystemMonitor&) = delete;
  GpuSystemMonitor& operator=(const GpuSystemMonitor&) = delete;

  // Starts the polling thread; does nothing where it runs already.
  void start();
  // Ends the polling thread, once a call into the source that is under way returns; does nothing
  // where none runs. The last state stays published.
  void stop();
  // Samples once, publishes and returns it. Throws InvalidArgument while the thread runs.
  HardwareState poll();
  // The newest published state (present == false before the first).
  HardwareState state() const noexcept;
  MonitorStats stats() const noexcept;
  // As the source described itself when the monitor was built.
  DeviceInfo device() const;
  std::string source_name() const;

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace thermoe
