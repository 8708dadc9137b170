// Charges the routing of a model to the experts of a cost shape: what a step would cost if the
// model at hand were as large as a published one.
#pragma once

#include "thermoe/kernel_cost_model.h"
#include "thermoe/model_config.h"
#include "thermoe/moe_layer.h"

namespace thermoe::app {

// One expert of the model stands for shape.experts / model.experts of the shape's, one token-expert
// pair for shape.top_k / model.top_k pairs, one MoE layer for shape.layers / model.layers layers.
class Charge {
 public:
  // `cost` must outlive it.
  Charge(const KernelCostModel& cost, const ModelConfig& model);

  MoeWork work_of(const RoutingPlan& plan) const;
  CostEstimate layer(const RoutingPlan& plan) const { return cost_.moe_layer(work_of(plan)); }
  // The surrogate in the model's own experts and pairs, at `tokens` tokens: what prices are made
  // of.
  CostSurrogate surrogate(double tokens) const;
  double layers_per_layer() const { return layers_scale_; }
  const KernelCostModel& cost() const { return cost_; }

 private:
  const KernelCostModel& cost_;
  double experts_scale_, pairs_scale_, layers_scale_;
};

// Adds up what the plans of one forward pass cost.
class StepCharge : public PlanObserver {
 public:
  explicit StepCharge(const Charge& charge) : charge_(charge) {}
  void on_plan(int layer, const RoutingPlan& plan) override;
  // The whole step of `tokens` tokens: MoE layers and everything else.
  CostEstimate step(double tokens) const;
  // Mean latency of one MoE layer and mean distinct experts of the model, over the plans seen.
  double layer_latency_us() const { return layers_ > 0 ? moe_.latency_us / layers_ : 0.0; }
  double distinct_experts() const { return layers_ > 0 ? distinct_ / layers_ : 0.0; }
  void clear();

 private:
  const Charge& charge_;
  CostEstimate moe_;  // sum over the plans, each once
  double layers_ = 0, distinct_ = 0;
};

}  // namespace thermoe::app
