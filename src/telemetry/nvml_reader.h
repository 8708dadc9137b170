// Reads one device's telemetry through NVML; remembers what that device does not support.
#pragma once

#include <array>
#include <optional>
#include <vector>

#include "telemetry/clocks.h"
#include "telemetry/nvml_gpm.h"
#include "telemetry/nvml_library.h"
#include "telemetry/pace.h"
#include "thermoe/hardware_state.h"

namespace thermoe::nvml {

// Lives no longer than the Library and its initialisation. Not thread-safe.
class Reader {
 public:
  // Of the time, at most, for each query that proves slow (energy takes 3 to 4 ms on an H100, two
  // of the throttle counters 1 ms together, the rest 0.1 ms): below 1 % in all. In between it keeps
  // its value.
  static constexpr double kEnergyShare = 0.0045;
  static constexpr double kSlowFieldsShare = 0.0015;   // the counters that are slow, together
  static constexpr double kQuickFieldsShare = 0.0015;  // all other fields, together
  static constexpr double kActivityShare = 0.0005;
  static constexpr double kOtherShare = 0.0002;
  static constexpr double kActivityIntervalS = 0.5;
  // What the driver says to be older than this is stale.
  static constexpr double kStaleS = 1.0;

  // Reads what does not change (clock range, thermal thresholds).
  Reader(const Library& library, Device device);

  // The newest readings, with their status. present is false where the device is lost or whatever
  // was asked now had no answer; then there are none, and no time_s.
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
  struct Batch;
  struct Asked;
  static const std::array<Field, kFieldQueries> kFields;
  static const std::array<Asked, 12> kOthers;
  // A query's last value.
  template <typename Value>
  struct Held {
    std::optional<Value> value;
    double taken_s = 0;
  };

  template <typename Function, typename... Arguments>
  bool ask(Query query, Function* function, Arguments... arguments);
  void note(Query query, Return result);
  // What `call` says where the query is due, what it said before where it is not.
  template <typename Value, typename Call>
  std::optional<Value> newest(Query query, Held<Value>& held, Call call);
  template <typename Number, typename Function, typename... Arguments>
  std::optional<double> newest_number(Query query, Function* function, Arguments... arguments);
  std::optional<double> threshold_c(int which);
  bool wanted(const Field& field) const;
  void ask_batch(const Batch& batch, Pace& pace);
  double alone_s(const Batch& batch) const;
  void forget(const Batch& batch, Pace& pace);
  void keep(const Field& field, const FieldValue& value, double now_s);
  void read_fields(HardwareState& state);
  void read_activity(HardwareState& state);
  void read_power(HardwareState& state);
  void read_temperature(HardwareState& state);
  void say_when(HardwareState& state) const;
  void say_why_absent(HardwareState& state) const;

  const Api& api_;
  Device device_;
  std::array<Validity, kQueries> outcome_{};  // of the last time it was asked
  bool lost_ = false, asked_ = false, answered_ = false;
  std::vector<Pace> paces_;  // by Query; a field's: of the calls for it alone
  Pace quick_fields_{kQuickFieldsShare}, slow_fields_{kSlowFieldsShare};
  std::array<Held<double>, kQueries> numbers_{};
  Held<unsigned long long> reasons_;
  DriverClock driver_clock_;
  Gpm gpm_;
  Held<Gpm::Activity> activity_;
  std::optional<double> sm_clock_max_mhz_;
  std::optional<double> temperature_limit_c_;
};

}  // namespace thermoe::nvml
