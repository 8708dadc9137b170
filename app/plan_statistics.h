// What the plans of a run say: means over all MoE layers and batch positions.
#pragma once

#include <array>
#include <cstdint>
#include <vector>

#include "charge.h"

namespace thermoe::app {

struct PlanSummary {
  double distinct_experts_mean = 0;        // per layer and batch position
  double top_k_distinct_experts_mean = 0;  // what plain top-k would have used of the same scores
  double expert_bytes_mean = 0;            // read of experts' weights, per layer and batch position
  double expert_bytes_frac = 1;            // the same, of what plain top-k would have read in bf16
  // Instances opened in each precision (kPrecisionNames), of all that were.
  std::array<double, kPrecisions> opened_frac{1, 0, 0};
  double gate_mass_frac = 1;
  double changed_tokens_frac = 0;  // tokens whose set of experts is not their top-k
  // Of an MoE layer of the cost shape, mean.
  double predicted_latency_us = 0, predicted_energy_mj = 0, predicted_bytes = 0;
  double certificate_gap_frac_median = 0, certificate_gap_frac_p99 = 0;
  double certificate_gap_frac_max = 0;
};

// Not thread-safe; one run each.
class PlanStatistics : public PlanObserver {
 public:
  // `charge` must outlive it.
  explicit PlanStatistics(const Charge& charge) : charge_(charge) {}
  void on_plan(int layer, const RoutingPlan& plan) override;
  double mean_tokens() const {
    return plans_ > 0 ? tokens_ / plans_ : 0.0;
  }  // that routed together
  // All zero changes where no plan was seen.
  PlanSummary summary() const;

 private:
  const Charge& charge_;
  double plans_ = 0, tokens_ = 0, changed_ = 0, distinct_ = 0, top_k_distinct_ = 0, gate_mass_ = 0;
  double latency_us_ = 0, energy_mj_ = 0, bytes_ = 0;
  double read_bytes_ = 0, top_k_bytes_ = 0;
  std::array<double, kPrecisions> opened_{};
  std::vector<float> gaps_;
};

}  // namespace thermoe::app
