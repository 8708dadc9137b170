#include "charge.h"

#include <algorithm>

namespace thermoe::app {

Charge::Charge(const KernelCostModel& cost, const ModelConfig& model) : cost_(cost) {
  const auto sparse_layers = std::count(model.sparse.begin(), model.sparse.end(), true);
  experts_scale_ = static_cast<double>(cost.shape().experts) / model.experts;
  pairs_scale_ = static_cast<double>(cost.shape().top_k) / model.top_k;
  layers_scale_ = static_cast<double>(cost.shape().layers) / static_cast<double>(sparse_layers);
}

MoeWork Charge::work_of(const RoutingPlan& plan) const {
  MoeWork work;
  work.tokens = plan.tokens;
  work.assignments = pairs_scale_ * static_cast<double>(plan.packed.size());
  // No more experts can be read than there are pairs.
  work.distinct_experts = std::min(experts_scale_ * plan.report.distinct_experts, work.assignments);
  return work;
}

CostSurrogate Charge::surrogate(double tokens) const {
  CostSurrogate surrogate = cost_.surrogate(tokens);
  surrogate.open_us *= experts_scale_;
  surrogate.open_mj *= experts_scale_;
  surrogate.slope_us *= pairs_scale_;
  surrogate.slope_mj *= pairs_scale_;
  return surrogate;
}

void StepCharge::on_plan(int, const RoutingPlan& plan) {
  add(moe_, charge_.layer(plan), 1.0);
  ++layers_;
  distinct_ += plan.report.distinct_experts;
}

CostEstimate StepCharge::step(double tokens) const {
  CostEstimate step = charge_.cost().dense_step(tokens);
  add(step, moe_, charge_.layers_per_layer());
  return step;
}

void StepCharge::clear() {
  moe_ = CostEstimate{};
  layers_ = distinct_ = 0;
}

}  // namespace thermoe::app
