// Charges the routing of a model to the experts of a cost shape: what a step would cost if the
// model at hand were as large as a published one.
#pragma once

#include "thermoe/kernel_cost_model.h"
#include "thermoe/model_config.h"
#include "thermoe/moe_layer.h"
#include "variants.h"

namespace thermoe::app {

// One expert of the model stands for shape.experts / model.experts of the shape's, one token-expert
// pair for shape.top_k / model.top_k pairs, one MoE layer for shape.layers / model.layers layers.
// An expert in a quantised variant is charged as a bf16 kernel's that reads as many bytes: what
// kernels of those formats cost is not measured yet. Arithmetic is charged as bf16's.
class Charge {
 public:
  // `cost` and `variants` must outlive it.
  Charge(const KernelCostModel& cost, const ModelConfig& model, const Variants& variants);

  MoeWork work_of(int layer, const RoutingPlan& plan) const;
  CostEstimate layer(int number, const RoutingPlan& plan) const {
    return cost_.moe_layer(work_of(number, plan));
  }
  // The surrogate in the model's own experts (in bf16) and pairs, at `tokens` tokens: what prices
  // are made of.
  CostSurrogate surrogate(double tokens) const;
  double layers_per_layer() const { return layers_scale_; }
  const KernelCostModel& cost() const { return cost_; }
  // Whose plans are charged.
  const Variants& variants() const { return variants_; }

 private:
  const KernelCostModel& cost_;
  const Variants& variants_;
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
  // Instances opened by precision, over the plans seen.
  const std::array<double, kPrecisions>& opened() const { return opened_; }
  void clear();

 private:
  const Charge& charge_;
  CostEstimate moe_;  // sum over the plans, each once
  double layers_ = 0, distinct_ = 0;
  std::array<double, kPrecisions> opened_{};
};

}  // namespace thermoe::app
