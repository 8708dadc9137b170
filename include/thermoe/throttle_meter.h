// ThrottleMeter: for how long a device's clocks were held back, from its counters or its reasons.
#pragma once

#include <optional>

#include "thermoe/hardware_state.h"

namespace thermoe {

// For how long clocks were held back, by reason; absent where it is not known. Reasons overlap.
struct ThrottleTimes {
  std::optional<double> power_cap_s;
  std::optional<double> power_brake_s;
  std::optional<double> thermal_s;
  std::optional<double> hardware_thermal_s;
  std::optional<double> board_limit_s;
  std::optional<double> reliability_s;

  // Of the reason of power or heat (the first four) that held longest, so that no time counts
  // twice; absent where none is known.
  std::optional<double> longest_s() const;
};

// By the counters of two states of one device, the earlier one first: those that both have. A
// counter that fell was reset, and has counted since.
ThrottleTimes throttled_between(const HardwareState& before, const HardwareState& after);

struct ThrottleReading {
  double span_s = 0;      // from the meter's first sample to its last
  ThrottleTimes counted;  // by the counters
  double reasons_s = 0;   // after samples whose throttle_reasons said so, until the next
  // By power or heat: by_counters, where those of the power cap and of heat are known, says that it
  // is counted.longest_s(); it is reasons_s otherwise.
  double throttled_s = 0;
  bool by_counters = false;
  int counter_resets = 0;
};

// Not thread-safe. Holds no samples: any number may be added.
class ThrottleMeter {
 public:
  // A sample not later than the last one (the same, read again) changes nothing; over a lost device
  // the counters go on, the reasons don't.
  void add(const HardwareState& state);
  ThrottleReading reading() const;

 private:
  bool any_ = false;
  HardwareState last_;  // the last present one
  double first_s_ = 0, last_s_ = 0, reasons_s_ = 0;
  bool held_back_ = false;  // by the last sample's reasons
  ThrottleTimes counted_;
  int resets_ = 0;
};

}  // namespace thermoe
