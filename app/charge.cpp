#include "charge.h"

#include <algorithm>

namespace thermoe::app {

Charge::Charge(const KernelCostModel& cost, const ModelConfig& model, const Variants& variants)
    : cost_(cost), variants_(variants) {
  const auto sparse_layers = std::count(model.sparse.begin(), model.sparse.end(), true);
  experts_scale_ = static_cast<double>(cost.shape().experts) / model.experts;
  pairs_scale_ = static_cast<double>(cost.shape().top_k) / model.top_k;
  layers_scale_ = static_cast<double>(cost.shape().layers) / static_cast<double>(sparse_layers);
}

MoeWork Charge::work_of(int layer, const RoutingPlan& plan) const {
  const PlanReads reads = variants_.reads_of(layer, plan);
  MoeWork work;
  work.tokens = plan.tokens;
  work.assignments = pairs_scale_ * static_cast<double>(plan.packed.size());
  // No more experts can be read than there are pairs; each counts as the share of its bf16 bytes.
  const double instances = reads.instances();
  if (instances > 0)
    work.distinct_experts =
        std::min(experts_scale_ * instances, work.assignments) * (reads.bf16_experts / instances);
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

void StepCharge::on_plan(int layer, const RoutingPlan& plan) {
  add(moe_, charge_.layer(layer, plan), 1.0);
  const PlanReads reads = charge_.variants().reads_of(layer, plan);
  for (size_t p = 0; p < opened_.size(); ++p) opened_[p] += reads.opened[p];
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
  opened_ = {};
}

}  // namespace thermoe::app
