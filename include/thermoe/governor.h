// Governor: the slow loop. Turns caps and targets into multipliers, and those into expert prices.
#pragma once

#include <optional>

#include "thermoe/expert_layout.h"
#include "thermoe/expert_prices.h"
#include "thermoe/hardware_state.h"
#include "thermoe/kernel_cost_model.h"

namespace thermoe {

// What the user asks for. Absent means no such limit.
struct GovernorLimits {
  std::optional<double> power_cap_w;              // board power
  std::optional<double> temperature_cap_c;        // die temperature
  std::optional<double> layer_latency_target_us;  // of one MoE layer
  double max_open_price = 0.25;  // ceiling of an expert's opening price: bounds the loss
};

// Prices of resources in utility per unit: the dual variables of the limits.
struct Multipliers {
  double per_us = 0;
  double per_mj = 0;
};

// Gains of the loop. Violations are relative (latency, power) or in units of temperature_scale_c;
// what they drive is the square root of a price, as a fraction of max_open_price: so the gains have
// no unit but the second.
struct GovernorSettings {
  double integral_per_s = 1.0;  // of a latency or power violation
  double proportional = 0.2;
  double thermal_integral_per_s = 0.15;
  double thermal_proportional = 0.6;
  double temperature_scale_c = 5.0;   // a violation of 1
  double temperature_margin_c = 1.0;  // the loop settles this far below the cap
  double prediction_s = 3.0;          // the cap is compared with the temperature this far ahead,
  double prediction_max_c = 3.0;      // at most so much above the present one
  double sensor_filter_s = 1.0;       // low-pass over the sensor's whole degrees
  double release_per_s = 0.1;         // least decay of a price whose limit is clearly not binding
};

// Dual ascent on the limits' violations, projected at zero: with no limit binding both multipliers
// reach exactly zero in finite time. The integrals are bounded by max_open_price, so nothing winds
// up. While the device itself throttles (for power or heat) a missed latency target is charged to
// energy, which is then the scarce resource, not to time. A missing reading leaves its limit's
// price where it was, for as long as it is missing. Not thread-safe.
class Governor {
 public:
  // `surrogate`: what an expert's opening costs, for scaling prices to max_open_price.
  // Throws InvalidArgument on limits, settings or a surrogate that are not positive and finite.
  Governor(const GovernorLimits& limits, const CostSurrogate& surrogate,
           const GovernorSettings& settings = {});
  // A limit that is gone releases its price at once, a changed one keeps it and moves on from
  // there.
  void set_limits(const GovernorLimits& limits);
  const GovernorLimits& limits() const { return limits_; }
  // One tick of the slow loop, dt_s >= 0 after the last. `layer_latency_us`: the observed mean
  // latency of an MoE layer since the last tick.
  Multipliers update(const HardwareState& state, std::optional<double> layer_latency_us,
                     double dt_s);
  Multipliers multipliers() const;
  // Prices of one layer's experts: multipliers times what the surrogate says each costs, `experts`
  // of them, capped at max_open_price.
  ExpertPrices prices(const CostSurrogate& surrogate, int experts) const;
  // The same of a layout's instances: opening one costs the expert's (capped) price times the share
  // of its bytes that the variant reads, and a token in it times the share of its arithmetic, so
  // that prices move precision as well as experts.
  ExpertPrices prices(const CostSurrogate& surrogate, const ExpertLayout& layout) const;

 private:
  // A proportional-integral controller.
  struct Loop {
    double integral = 0;  // in [0, 1]
    double output = 0;    // a price as a fraction of max_open_price
  };
  // Of an expert in its original bf16.
  struct UnitPrices {
    float open = 0, slope = 0;
  };
  UnitPrices unit_prices(const CostSurrogate& surrogate) const;
  // What a limit says this tick; absent: hold.
  struct Violations {
    std::optional<double> latency, power, heat;
  };
  Violations violations(const HardwareState& state, std::optional<double> layer_latency_us,
                        double dt_s);
  std::optional<double> heat_violation(const HardwareState& state, double dt_s);
  void step(Loop& loop, std::optional<double> violation, double integral_per_s, double proportional,
            double dt_s) const;

  GovernorLimits limits_;
  CostSurrogate surrogate_;
  GovernorSettings settings_;
  Loop latency_, power_, heat_;
  std::optional<double> filtered_c_;  // the temperature, and its slope, low-passed
  double slope_c_per_s_ = 0;
};

}  // namespace thermoe
