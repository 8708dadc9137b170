// Governor: the slow loop. Turns caps and targets into multipliers, and those into expert prices.
#pragma once

#include <optional>

#include "thermoe/expert_prices.h"
#include "thermoe/hardware_state.h"
#include "thermoe/kernel_cost_model.h"

namespace thermoe {

// What the user asks for. Absent means no such limit.
struct GovernorLimits {
  std::optional<double> power_cap_w;             // board power
  std::optional<double> temperature_cap_c;       // die temperature
  std::optional<double> layer_latency_target_us; // of one MoE layer
  double max_open_price = 0.25;                  // ceiling of an expert's opening price: bounds the loss
};

// Prices of resources in utility per unit: the dual variables of the limits.
struct Multipliers {
  double per_us = 0;
  double per_mj = 0;
};

// Dual ascent on the limits' violations, projected at zero: with no limit binding both multipliers
// settle at exactly zero. Not thread-safe.
class Governor {
 public:
  explicit Governor(const GovernorLimits& limits);
  void set_limits(const GovernorLimits& limits);
  // One tick of the slow loop. `layer_latency_us`: the observed mean latency of an MoE layer since
  // the last tick. A state without a reading leaves that reading's limit where it was.
  Multipliers update(const HardwareState& state, std::optional<double> layer_latency_us, double dt_s);
  Multipliers multipliers() const;
  // Prices of one layer's experts: multipliers times what the surrogate says each costs, `experts`
  // of them, capped at max_open_price.
  ExpertPrices prices(const CostSurrogate& surrogate, int experts) const;

 private:
  GovernorLimits limits_;
  Multipliers multipliers_;
};

}  // namespace thermoe
