// eplb, metro: which replica of an expert serves a token, on a layout; the tokens' experts and
// weights stay top-k's.
//
// eplb: DeepSeek's expert-parallel load balancer (DeepSeek-AI 2024, DeepSeek-V3 technical report,
// arXiv:2412.19437, section 3.4; deepseek-ai/EPLB) places replicas; engines then spread an expert's
// tokens evenly over them. Implemented: the tokens of an expert, in their order, go round its
// replicas (vLLM takes the position in the batch modulo the replicas instead, as even on average).
//
// metro: Yu, Ma, Agarwal et al. 2025, "Efficient MoE Serving in the Memory-Bound Regime: Balance
// Activated Experts, Not Tokens" (arXiv:2512.09277), its greedy algorithm. Implemented: all tokens
// of an expert go to one replica, that on the device with the fewest activated experts so far
// (ties: lower device); experts in use are taken by id (order=id, as published), or those with one
// replica first (order=fixed, SGLang's variant, which leaves less to chance).
//
// Replicas are an expert's instances in its first variant; other precisions are never used.
// Capacities are ignored. Both throw InvalidArgument on a request without a layout.
#include <fmt/format.h>

#include <algorithm>

#include "routing/policies/makers.h"
#include "routing/policies/selection_policy.h"
#include "routing/request_check.h"
#include "routing/top_k.h"
#include "thermoe/error.h"

namespace thermoe {
namespace {

// Top-k, then instances by a subclass.
class ReplicaPolicy : public RoutingPolicy {
 public:
  void route(const RoutingRequest& request, RoutingPlan& plan) override {
    check_request(request);
    if (request.layout == nullptr)
      throw InvalidArgument(fmt::format(
          "policy {} chooses between replicas: give the request a layout that says where they are",
          name()));
    const ExpertLayout& layout = *request.layout;
    if (layout.experts != request.scores.cols)
      throw InvalidArgument(fmt::format("the layout holds {} experts, the scores {}",
                                        layout.experts, request.scores.cols));
    fill_top_k(request, plan, masses_);
    plan.report = RoutingReport{};
    place(layout, plan);
    finish_plan(request, masses_, count_distinct(plan, seen_), plan);
  }

 protected:
  // Fills plan.instances.
  virtual void place(const ExpertLayout& layout, RoutingPlan& plan) = 0;

  static int replicas(const ExpertLayout& layout, int32_t expert) {
    const auto own = layout.of(expert);
    return static_cast<int>(std::count_if(
        own.begin(), own.end(),
        [&](const ExpertInstance& instance) { return instance.variant == own.front().variant; }));
  }

 private:
  std::vector<float> masses_;
  std::vector<uint8_t> seen_;
};

class Eplb : public ReplicaPolicy {
 public:
  explicit Eplb(const PolicyArguments&) {}
  const char* name() const override { return "eplb"; }

 protected:
  void place(const ExpertLayout& layout, RoutingPlan& plan) override {
    served_.assign(static_cast<size_t>(plan.experts), 0);
    for (size_t pair = 0; pair < plan.ids.size(); ++pair) {
      const int32_t expert = plan.ids[pair];
      int& served = served_[static_cast<size_t>(expert)];
      plan.instances[pair] =
          layout.first[static_cast<size_t>(expert)] + served++ % replicas(layout, expert);
    }
  }

 private:
  std::vector<int> served_;
};

class Metro : public ReplicaPolicy {
 public:
  explicit Metro(const PolicyArguments& arguments)
      : fixed_first_(arguments.choice("order", {"id", "fixed"}) == 1) {}
  const char* name() const override { return "metro"; }

 protected:
  void place(const ExpertLayout& layout, RoutingPlan& plan) override {
    activated_.assign(static_cast<size_t>(layout.devices), 0);
    chosen_.assign(static_cast<size_t>(plan.experts), -1);
    used_.assign(static_cast<size_t>(plan.experts), 0);
    for (const int32_t expert : plan.ids) used_[static_cast<size_t>(expert)] = 1;
    if (fixed_first_)
      for (int32_t e = 0; e < plan.experts; ++e)
        if (replicas(layout, e) == 1) activate(layout, e);
    for (int32_t e = 0; e < plan.experts; ++e) activate(layout, e);
    for (size_t pair = 0; pair < plan.ids.size(); ++pair)
      plan.instances[pair] = chosen_[static_cast<size_t>(plan.ids[pair])];
  }

 private:
  void activate(const ExpertLayout& layout, int32_t expert) {
    const size_t e = static_cast<size_t>(expert);
    if (used_[e] == 0 || chosen_[e] >= 0) return;
    const auto device_load = [&](int32_t instance) {
      return activated_[static_cast<size_t>(
          layout.instances[static_cast<size_t>(instance)].device)];
    };
    int32_t best = layout.first[e];  // replicas stand by device
    for (int r = 1; r < replicas(layout, expert); ++r)
      if (device_load(layout.first[e] + r) < device_load(best)) best = layout.first[e] + r;
    chosen_[e] = best;
    ++activated_[static_cast<size_t>(layout.instances[static_cast<size_t>(best)].device)];
  }

  bool fixed_first_;
  std::vector<int> activated_;
  std::vector<int32_t> chosen_;
  std::vector<uint8_t> used_;
};

}  // namespace

PolicyMaker eplb_policy() {
  return {.info = {.name = "eplb",
                   .summary = "top-k; an expert's tokens are spread evenly over its replicas",
                   .source = "DeepSeek-AI 2024, EPLB; needs a layout",
                   .parameters = {},
                   .needs_layout = true},
          .make = make_policy<Eplb>};
}

PolicyMaker metro_policy() {
  return {.info = {.name = "metro",
                   .summary = "top-k; one replica of each expert, fewest activated on any device",
                   .source = "Yu et al. 2025, METRO; needs a layout",
                   .parameters = {{"order", "id", "id: as published; fixed: single copies first"}},
                   .needs_layout = true},
          .make = make_policy<Metro>};
}

}  // namespace thermoe
