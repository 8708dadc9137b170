// The telemetry source over NVML: opens a device, reads it, and finds it again after it was lost.
#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <memory>
#include <optional>
#include <string>
#include <thread>

#include "telemetry/clocks.h"
#include "telemetry/nvml_library.h"
#include "telemetry/nvml_reader.h"
#include "telemetry/readings.h"
#include "thermoe/error.h"
#include "thermoe/gpu_system_monitor.h"

namespace thermoe {
namespace {

constexpr double kRetryFirstS = 0.25;
constexpr double kRetryMaxS = 8.0;

class NvmlSource final : public TelemetrySource {
 public:
  explicit NvmlSource(int index) : index_(index) {
    library_.require_init();
    const unsigned count = library_.require_device_count();
    if (count == 0) {
      throw NvmlError(
          "NVML sees no GPU; check that nvidia-smi lists one and that this process may use it, or "
          "use a replayed trace or the digital twin");
    }
    if (index < 0 || static_cast<unsigned>(index) >= count) {
      throw NvmlError(fmt::format("no GPU with index {}: NVML sees {}; choose one from 0 to {}",
                                  index, count, count - 1));
    }
    nvml::Device device = nullptr;
    const nvml::Return result =
        library_.api().device_by_index(static_cast<unsigned>(index), &device);
    if (result != nvml::kSuccess) {
      throw NvmlError(fmt::format("GPU {} can't be opened: {}", index, library_.explain(result)));
    }
    info_.name = library_.device_name(device);
    info_.uuid = library_.device_uuid(device);
    info_.driver_version = library_.driver_version();
    reader_.emplace(library_, device);
  }

  std::string name() const override { return fmt::format("nvml:{}", index_); }
  DeviceInfo device() const override { return info_; }

  HardwareState sample() override {
    const double now_s = monotonic_s();
    HardwareState state;
    if (reader_ || (now_s >= retry_at_s_ && reopen())) state = reader_->read();
    if (state.present) {
      retry_after_s_ = kRetryFirstS;
    } else if (reader_ || now_s >= retry_at_s_) {
      reader_.reset();
      retry_at_s_ = monotonic_s() + retry_after_s_;
      retry_after_s_ = std::min(2.0 * retry_after_s_, kRetryMaxS);
    }
    if (!state.present) state.time_s = monotonic_s();
    return state;
  }

 private:
  // A fresh initialisation, because handles don't survive a reset of the device or the driver.
  bool reopen() {
    library_.shutdown();
    unsigned count = 0;
    if (library_.init() != nvml::kSuccess ||
        library_.api().device_count(&count) != nvml::kSuccess) {
      return false;
    }
    for (unsigned i = 0; i < count; ++i) {
      // Indices shift while a board is missing: only its UUID tells it from its neighbour.
      if (info_.uuid.empty() && i != static_cast<unsigned>(index_)) continue;
      nvml::Device device = nullptr;
      if (library_.api().device_by_index(i, &device) != nvml::kSuccess) continue;
      if (library_.device_uuid(device) != info_.uuid) continue;
      reader_.emplace(library_, device);
      return true;
    }
    return false;
  }

  nvml::Library library_;
  int index_;
  DeviceInfo info_;
  std::optional<nvml::Reader> reader_;  // empty while the device is lost
  double retry_at_s_ = 0.0;
  double retry_after_s_ = kRetryFirstS;
};

TelemetryProbe::Device probe_device(const nvml::Library& library, unsigned index) {
  nvml::Device device = nullptr;
  const nvml::Return result = library.api().device_by_index(index, &device);
  if (result != nvml::kSuccess) {
    throw NvmlError(fmt::format("GPU {} can't be opened: {}", index, library.explain(result)));
  }
  TelemetryProbe::Device probed;
  probed.name = library.device_name(device);
  probed.uuid = library.device_uuid(device);
  nvml::Reader reader(library, device);
  (void)reader.read();
  // Activity is known from one sample to the next.
  std::this_thread::sleep_for(std::chrono::duration<double>(1.1 * nvml::Gpm::kLeastIntervalS));
  for_each_reading(reader.read(), [&probed](const char* name, const auto& reading) {
    (reading ? probed.available_fields : probed.missing_fields).push_back(name);
  });
  return probed;
}

}  // namespace

std::unique_ptr<TelemetrySource> open_nvml_source(int device_index) {
  return std::make_unique<NvmlSource>(device_index);
}

int count_nvml_devices() {
  try {
    nvml::Library library;
    library.require_init();
    return static_cast<int>(library.require_device_count());
  } catch (const NvmlError&) {
    return 0;  // that is the answer: no driver, no devices
  }
}

TelemetryProbe probe_nvml() {
  TelemetryProbe probe;
  probe.library = nvml::library_name();
  try {
    nvml::Library library;
    probe.library_found = true;
    probe.library = library.path();
    library.require_init();
    probe.driver_version = library.driver_version();
    const unsigned count = library.require_device_count();
    if (count == 0) {
      probe.problem =
          "NVML sees no GPU; check that nvidia-smi lists one and that this process may use it";
    }
    for (unsigned i = 0; i < count; ++i) {
      // One board that can't be opened doesn't hide the others.
      try {
        probe.devices.push_back(probe_device(library, i));
      } catch (const NvmlError& error) {
        probe.problem = error.what();
      }
    }
  } catch (const NvmlError& error) {
    probe.problem = error.what();
  }
  return probe;
}

}  // namespace thermoe
