// Reads one device's telemetry through NVML; remembers what that device does not support.
#pragma once

#include <bitset>
#include <optional>

#include "telemetry/nvml_library.h"
#include "thermoe/hardware_state.h"

namespace thermoe::nvml {

// Lives no longer than the Library and its initialisation. Not thread-safe.
class Reader {
 public:
  // Reads what does not change (clock range, thermal thresholds).
  Reader(const Library& library, Device device);

  // All the readings that can be had now. present is true where there is at least one and the
  // device isn't lost; otherwise there are none. time_s is left to the caller.
  HardwareState read();

 private:
  // What NVML answers NOT_SUPPORTED to stays so while it is initialised: asked once, then left out.
  enum Query {
    kPowerInstant,
    kPowerAverage,
    kMemoryTemperature,
    kPowerUsage,
    kEnergy,
    kPowerLimit,
    kSmClock,
    kMemClock,
    kSmClockMax,
    kTemperature,
    kThresholds,
    kMargin,
    kEventReasons,
    kQueries
  };

  template <typename Function, typename... Arguments>
  bool ask(Query query, Function* function, Arguments... arguments);
  void note(Query query, Return result);
  std::optional<double> threshold_c(int which);
  void read_fields(HardwareState& state);
  void read_power(HardwareState& state);
  void read_clocks(HardwareState& state);
  void read_temperature(HardwareState& state);

  const Api& api_;
  Device device_;
  std::bitset<kQueries> unsupported_;
  bool lost_ = false;
  std::optional<double> sm_clock_max_mhz_;
  std::optional<double> temperature_limit_c_;
};

}  // namespace thermoe::nvml
