// Reads one device's telemetry through NVML; remembers what that device does not support.
#pragma once

#include <array>
#include <optional>

#include "telemetry/clocks.h"
#include "telemetry/nvml_gpm.h"
#include "telemetry/nvml_library.h"
#include "telemetry/pace.h"
#include "thermoe/hardware_state.h"

namespace thermoe::nvml {

// Lives no longer than the Library and its initialisation. Not thread-safe.
class Reader {
 public:
  // Of the time, for what need not be read each time: counters, which miss nothing in between, and
  // activity, a sample of which takes some 1 ms on an H100.
  static constexpr double kCounterShare = 0.02;
  static constexpr double kActivityShare = 0.0025;
  static constexpr double kActivityIntervalS = 0.5;
  // What the driver says to be older than this is stale.
  static constexpr double kStaleS = 1.0;

  // Reads what does not change (clock range, thermal thresholds).
  Reader(const Library& library, Device device);

  // All the readings that can be had now, with their status. present is true where there is at
  // least one and the device isn't lost; otherwise there are none, and no time_s.
  HardwareState read();

 private:
  // What NVML answers NOT_SUPPORTED to stays so while it is initialised: asked once, then left out.
  enum Query {
    kPowerInstant,
    kPowerAverage,
    kMemoryTemperature,
    kThrottledPowerCap,
    kThrottledPowerBrake,
    kThrottledThermal,
    kThrottledThermalOld,
    kThrottledHwThermal,
    kThrottledBoardLimit,
    kThrottledReliability,
    kFieldQueries,  // those above are fields
    kPowerUsage = kFieldQueries,
    kEnergy,
    kPowerLimit,
    kSmClock,
    kMemClock,
    kSmClockMax,
    kTemperature,
    kThresholds,
    kMargin,
    kEventReasons,
    kActivity,
    kQueries
  };
  struct Field;
  static const std::array<Field, kFieldQueries> kFields;
  // A field's or the activity's last value.
  template <typename Value>
  struct Held {
    std::optional<Value> value;
    double taken_s = 0;
  };

  template <typename Function, typename... Arguments>
  bool ask(Query query, Function* function, Arguments... arguments);
  void note(Query query, Return result);
  std::optional<double> threshold_c(int which);
  bool wanted(const Field& field, bool counters_due) const;
  void ask_fields();
  void keep(const Field& field, const FieldValue& value, double now_s);
  void read_fields(HardwareState& state);
  void read_activity(HardwareState& state);
  void read_power(HardwareState& state);
  void read_clocks(HardwareState& state);
  void read_temperature(HardwareState& state);
  void say_when(HardwareState& state) const;
  void say_why_absent(HardwareState& state) const;

  const Api& api_;
  Device device_;
  std::array<Validity, kQueries> outcome_{};  // of the last time it was asked
  bool lost_ = false, answered_ = false;
  std::array<Held<double>, kFieldQueries> fields_{};
  DriverClock driver_clock_;
  Pace counter_pace_{kCounterShare, 0.0};
  Gpm gpm_;
  Pace activity_pace_{kActivityShare, kActivityIntervalS};
  Held<Gpm::Activity> activity_;
  std::optional<double> sm_clock_max_mhz_;
  std::optional<double> temperature_limit_c_;
};

}  // namespace thermoe::nvml
