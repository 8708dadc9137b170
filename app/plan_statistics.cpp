#include "plan_statistics.h"

#include <algorithm>
#include <cmath>
#include <numeric>

namespace thermoe::app {
namespace {

// The smallest value that at least `frac` of the values do not exceed.
double quantile(std::vector<float>& values, double frac) {
  const double rank = std::ceil(frac * static_cast<double>(values.size())) - 1;
  const auto at = values.begin() + static_cast<std::ptrdiff_t>(std::max(rank, 0.0));
  std::nth_element(values.begin(), at, values.end());
  return *at;
}

}  // namespace

void PlanStatistics::on_plan(int layer, const RoutingPlan& plan) {
  const RoutingReport& report = plan.report;
  ++plans_;
  tokens_ += plan.tokens;
  changed_ += report.changed_tokens;
  distinct_ += report.distinct_experts;
  top_k_distinct_ += report.top_k_distinct_experts;
  gate_mass_ += report.gate_mass_frac;
  const Variants& variants = charge_.variants();
  const PlanReads reads = variants.reads_of(layer, plan);
  read_bytes_ += reads.bytes;
  top_k_bytes_ += variants.bf16_bytes(layer, report.top_k_distinct_experts);
  for (size_t p = 0; p < opened_.size(); ++p) opened_[p] += reads.opened[p];
  const CostEstimate cost = charge_.layer(layer, plan);
  latency_us_ += cost.latency_us;
  energy_mj_ += cost.energy_mj;
  bytes_ += cost.bytes;
  gaps_.push_back(static_cast<float>(report.gap_frac));
}

PlanSummary PlanStatistics::summary() const {
  PlanSummary summary;
  if (plans_ == 0) return summary;
  summary.distinct_experts_mean = distinct_ / plans_;
  summary.top_k_distinct_experts_mean = top_k_distinct_ / plans_;
  summary.expert_bytes_mean = read_bytes_ / plans_;
  summary.expert_bytes_frac = read_bytes_ / top_k_bytes_;
  const double opened = std::accumulate(opened_.begin(), opened_.end(), 0.0);
  for (size_t p = 0; p < opened_.size() && opened > 0; ++p)
    summary.opened_frac[p] = opened_[p] / opened;
  summary.gate_mass_frac = gate_mass_ / plans_;
  summary.changed_tokens_frac = changed_ / tokens_;
  summary.predicted_latency_us = latency_us_ / plans_;
  summary.predicted_energy_mj = energy_mj_ / plans_;
  summary.predicted_bytes = bytes_ / plans_;
  std::vector<float> gaps = gaps_;
  summary.certificate_gap_frac_median = quantile(gaps, 0.5);
  summary.certificate_gap_frac_p99 = quantile(gaps, 0.99);
  summary.certificate_gap_frac_max = *std::max_element(gaps.begin(), gaps.end());
  return summary;
}

}  // namespace thermoe::app
