// EnergyMeter: the energy that a device used between samples, from its counter and from its power.
#pragma once

#include <optional>

#include "thermoe/hardware_state.h"

namespace thermoe {

// All since the meter's first sample. Energies are the board's.
struct EnergyReading {
  double span_s = 0;      // from the first sample to the last
  double observed_s = 0;  // of it between samples at most EnergyMeter::kLongestGapS apart
  // The counter's deltas; before its first and after its last known move (the counter may be read
  // less often than power), and over spans in which there was none to trust (absent, reset,
  // stalled), the integral of power; absent where neither is known.
  std::optional<double> energy_mj;
  // Half the width of the interval in which the energy lies, by what the meter can know: how late
  // the counter and power may be at both ends, kPowerErrorFrac of what was bridged there, half of
  // what was filled in.
  double uncertainty_mj = 0;
  // Trapezoids of instantaneous power (the average one where there is none) over observed_s.
  std::optional<double> integrated_mj;
  // Of the energy where both are known, over the same span: (counter - integral) / integral.
  std::optional<double> disagreement_frac;
  int counter_resets = 0;  // the counter fell
  int counter_stalls = 0;  // it stood still for kStallS and longer though power was drawn
};

// Not thread-safe. Holds no samples: any number may be added.
class EnergyMeter {
 public:
  // Boards refresh their counter and power about ten times a second (H100, driver 580).
  static constexpr double kRefreshS = 0.1;
  // For so long the same at each read. A trace keeps no ages: there a counter that was not read for
  // so long looks the same.
  static constexpr double kStallS = 1.0;
  static constexpr double kPowerErrorFrac = 0.05;  // of a board's power readings
  // Between samples further apart nothing is known of the power.
  static constexpr double kLongestGapS = 2.5;

  // A sample not later than the last one (the same, read again) changes nothing; one of a lost
  // device is a gap.
  void add(const HardwareState& state);
  EnergyReading reading() const;

 private:
  void add_power(const HardwareState& state, double step_s);
  void add_counter(const HardwareState& state);
  void count(const HardwareState& state, double delta_mj, double late_s);

  // A span and what power says of it.
  struct Span {
    double since_s = 0, integral_mj = 0;
    double highest_w = 0, lowest_w = 0;
    bool any = false;      // power
    bool complete = true;  // power is known all the time
    bool stalled = false;
    void add(double power_w, double energy_mj);
    double uncertainty_mj() const;
  };
  void begin_pending(const HardwareState& state, double late_s);

  bool any_ = false;
  double first_s_ = 0, last_s_ = 0, observed_s_ = 0;
  std::optional<double> power_w_;     // of the last sample
  std::optional<double> counter_mj_;  // last read
  bool moved_ = false;                // the counter, since there is one to count from
  double counted_mj_ = 0;             // deltas
  double compared_mj_ = 0, compared_integral_mj_ = 0;  // deltas and integrals over the same spans
  double filled_mj_ = 0;                               // integrals where no delta is to be trusted
  double integrated_mj_ = 0;
  bool has_integral_ = false;
  Span head_;     // until the counter first moved
  Span pending_;  // since it last moved
  int resets_ = 0, stalls_ = 0;
};

}  // namespace thermoe
