// RoutingPolicy: anything that makes a plan of scores. The adaptive router, plain top-k and the
// published policies (routing_policies.h) are ones.
#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "thermoe/expert_layout.h"
#include "thermoe/expert_prices.h"
#include "thermoe/routing_plan.h"
#include "thermoe/views.h"

namespace thermoe {

// What a plan is to be best at.
struct RoutingGoal {
  enum class Kind : uint8_t {
    kPrices,       // most utility minus cost, at the request's prices
    kLeastCost,    // least cost, keeping at least `limit` of top-k's utility (a fraction, 0 to 1)
    kBestQuality,  // most utility at a cost of at most `limit` (in the unit of the prices)
  };
  Kind kind = Kind::kPrices;
  double limit = 0;
};

// One batch to route. The views, prices and layout are read during the call only.
struct RoutingRequest {
  ConstMatrix scores;                    // [T, E] gate probabilities, finite, >= 0
  int k = 0;                             // experts per token, 1 <= k <= E
  bool renormalize = true;               // weights of an unmodified token sum to 1 (norm_topk_prob)
  const ExpertPrices* prices = nullptr;  // null: zero prices
  int layer = 0;                         // for policies that keep state per layer
  const ExpertLayout* layout = nullptr;  // null: every expert once, on one device, without limit
  int min_k = 0;                         // a token uses min_k to k experts; 0: the policy's own
  std::optional<RoutingGoal> goal = {};  // absent: the policy's own
};

class RoutingPolicy {
 public:
  virtual ~RoutingPolicy() = default;
  virtual const char* name() const = 0;
  // Fills `plan` (packed included). Throws InvalidArgument on scores that are not finite or
  // negative (naming token and expert), k outside [1, E], min_k outside [0, k], T == 0, prices of
  // the wrong length, negative or not finite, a layout for another number of experts, a goal whose
  // limit is out of range; `plan` is then unspecified, the policy usable. A policy that cannot do
  // what a request asks for (a layout, say) says so with InvalidArgument.
  virtual void route(const RoutingRequest& request, RoutingPlan& plan) = 0;
};

// The model's own routing: the k highest scores, ties by lower expert id. With a layout each expert
// runs in its first instance. Ignores prices, goal and capacities.
class TopKPolicy : public RoutingPolicy {
 public:
  const char* name() const override { return "topk"; }
  void route(const RoutingRequest& request, RoutingPlan& plan) override;

 private:
  std::vector<float> masses_;
  std::vector<uint8_t> seen_;
};

}  // namespace thermoe
