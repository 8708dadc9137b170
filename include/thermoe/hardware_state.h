// What is known of one GPU at one moment. Missing is not zero: every reading is optional.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <type_traits>

namespace thermoe {

// Throttle reasons, with NVML's bit values (nvmlClocksEventReasons*), whatever the source.
inline constexpr uint64_t kThrottleSoftwarePowerCap = 0x4;
inline constexpr uint64_t kThrottleHardwareSlowdown = 0x8;
inline constexpr uint64_t kThrottleSoftwareThermal = 0x20;
inline constexpr uint64_t kThrottleHardwareThermal = 0x40;
inline constexpr uint64_t kThrottlePowerBrake = 0x80;
inline constexpr uint64_t kThrottleAnyPower = kThrottleSoftwarePowerCap | kThrottlePowerBrake;
inline constexpr uint64_t kThrottleAnyThermal =
    kThrottleSoftwareThermal | kThrottleHardwareThermal | kThrottleHardwareSlowdown;

// One sample of one GPU's telemetry. Trivially copyable, so that it can be published lock-free.
struct HardwareState {
  // When it was taken, on the source's clock: the machine's monotonic clock for NVML, the trace's
  // own time for a replay, virtual time for a twin. Never decreasing from one sample to the next.
  double time_s = 0.0;
  // False: nothing was ever read, or the device is lost; then no reading is there either.
  bool present = false;
  std::optional<double> power_instant_w;  // of the board, refreshed some 10 times a second
  std::optional<double> power_average_w;  // of the board, over about one second
  std::optional<double> power_limit_w;    // the enforced cap
  std::optional<double> energy_mj;        // counter since the driver was loaded; may be reset
  std::optional<double> sm_clock_mhz;
  std::optional<double> sm_clock_max_mhz;
  std::optional<double> mem_clock_mhz;
  std::optional<double> temperature_c;
  std::optional<double> memory_temperature_c;
  std::optional<double> temperature_limit_c;  // above it the device slows its clocks
  std::optional<uint64_t> throttle_reasons;   // kThrottle* bits (others may be set as well)

  // The board's power now: the instantaneous reading, or the average one where there is none.
  std::optional<double> power_w() const noexcept {
    return power_instant_w ? power_instant_w : power_average_w;
  }
  // True where a reason is known and is about power or heat. An unknown reason counts as false.
  bool throttled() const noexcept {
    return throttle_reasons.has_value() &&
           (*throttle_reasons & (kThrottleAnyPower | kThrottleAnyThermal)) != 0;
  }
};
static_assert(std::is_trivially_copyable_v<HardwareState>);

// What does not change while a device is open.
struct DeviceInfo {
  std::string name;            // e.g. "NVIDIA H100 80GB HBM3"
  std::string uuid;            // empty where the source has none
  std::string driver_version;  // empty where the source has none
  bool simulated = false;      // true for the twin and for replayed traces
};

}  // namespace thermoe
