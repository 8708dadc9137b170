// What is known of one GPU at one moment. Missing is not zero: every reading is optional.
#pragma once

#include <array>
#include <cstddef>
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

// HardwareState's readings, in its order; each is named as its member.
enum class Reading : uint8_t {
  kPowerInstant,
  kPowerAverage,
  kPowerLimit,
  kEnergy,
  kSmClock,
  kSmClockMax,
  kMemClock,
  kTemperature,
  kMemoryTemperature,
  kTemperatureLimit,
  kThrottleReasons,
  kThrottledPowerCap,
  kThrottledPowerBrake,
  kThrottledThermal,
  kThrottledHardwareThermal,
  kThrottledBoardLimit,
  kThrottledReliability,
  kSmActive,
  kTensorActive,
  kDramActive,
};
inline constexpr size_t kReadings = static_cast<size_t>(Reading::kDramActive) + 1;

// Whether a reading can be used; the first three are absent from the state, the others in it.
enum class Validity : uint8_t {
  kUnknown,      // not read (yet), or the source does not say why it is absent
  kUnsupported,  // this device or driver does not have it
  kError,        // it could not be read just now
  kValid,
  kStale,  // the value is there, but a fresher one was due
};

// What a reading is of.
enum class Scope : uint8_t {
  kUnknown,
  kDie,     // the GPU's die
  kMemory,  // its memory
  kBoard,   // die, memory and what feeds them
  kModule,  // the board and a CPU on the same module
};

// What is known of one reading beside its value. Times are milliseconds at the state's time_s, on
// the clock of time_s; kLongestMs stands for that or longer.
struct ReadingStatus {
  static constexpr uint16_t kLongestMs = 65535;
  // Since the value was taken, by the driver's time stamp where it gives one, else since it was
  // asked for. Drivers may hand out a value that they refreshed earlier without saying so: a
  // board's power and energy move some ten times a second.
  uint16_t age_ms = 0;
  uint16_t unchanged_ms = 0;  // since it was seen to become what it is
  Validity validity = Validity::kUnknown;
  Scope scope = Scope::kUnknown;
};

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

  // For how long clocks were held back for a reason: counters since the driver was loaded, which
  // may be reset. Reasons overlap. They miss nothing between samples, where throttle_reasons does;
  // ThrottleMeter takes their differences.
  std::optional<double> throttled_power_cap_s;
  std::optional<double> throttled_power_brake_s;
  std::optional<double> throttled_thermal_s;           // by the driver
  std::optional<double> throttled_hardware_thermal_s;  // by the hardware, at its last resort
  std::optional<double> throttled_board_limit_s;
  std::optional<double> throttled_reliability_s;  // voltage

  // Over the half second or so before they were taken, as fractions of its cycles.
  std::optional<double> sm_active_frac;      // SMs with work
  std::optional<double> tensor_active_frac;  // tensor pipes, of whatever type
  std::optional<double> dram_active_frac;    // of the highest memory bandwidth

  // Filled in by GpuSystemMonitor where the source leaves it open.
  std::array<ReadingStatus, kReadings> status{};

  const ReadingStatus& status_of(Reading reading) const noexcept {
    return status[static_cast<size_t>(reading)];
  }
  ReadingStatus& status_of(Reading reading) noexcept {
    return status[static_cast<size_t>(reading)];
  }

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
