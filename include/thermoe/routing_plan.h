// RoutingPlan: which experts each token of a batch goes to, with which weight, packed per expert.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace thermoe {

enum class RoutingStatus : uint8_t {
  kSolved,      // the plan keeps every limit; how good it is, `bound` says
  kInfeasible,  // no plan keeps the limits (or none was found): this one violates them least
};

// What a plan is worth and how far from the best it can be. Utility: 1 per unmodified token.
struct RoutingReport {
  RoutingStatus status = RoutingStatus::kSolved;
  // What the request's goal is about: utility minus cost (goal kPrices) or utility (kBestQuality),
  // both to be as high as possible; cost (kLeastCost), to be as low as possible.
  double objective = 0;
  double bound = 0;                // no plan that keeps the limits does better (weak duality)
  double gap_frac = 0;             // |bound - objective| / max(|bound|, 1e-12), >= 0
  double utility = 0;              // sum over tokens
  double cost = 0;                 // of what the plan uses, at the request's prices
  double limit_excess = 0;         // by how much the worst limit is violated; 0 where solved
  double gate_mass_frac = 1;       // kept share of the tokens' own top-k mass, mean over tokens
  int distinct_experts = 0;        // experts that at least one token uses
  int distinct_instances = 0;      // instances that at least one token uses
  int top_k_distinct_experts = 0;  // what plain top-k would have used
  int changed_tokens = 0;          // tokens whose set of experts differs from their top-k
};

// One batch's plan: T tokens, k slots each, out of E experts in I instances (I = E where the
// request had no layout). Reused from step to step: its vectors keep their capacity, so planning
// allocates nothing in the steady state.
struct RoutingPlan {
  int tokens = 0, experts = 0, k = 0;
  std::vector<int32_t> ids;        // [T, k] experts by falling score, ties by lower id; distinct
                                   // within a token; unused slots stand last and are -1
  std::vector<int32_t> instances;  // [T, k] the instance of each; without a layout equal to ids
  std::vector<float> weights;  // [T, k] the share of each expert's output in the token's; unused 0
  std::vector<uint8_t> changed;  // [T] 1 where the token's set of experts differs from its top-k
  RoutingReport report;

  // Tile-packed order: the pairs of instance i are packed[offsets[i]] .. packed[offsets[i + 1] -
  // 1], each an index into ids (token * k + slot), by rising token.
  std::vector<int32_t> offsets;  // [I + 1]
  std::vector<int32_t> packed;   // [used pairs]

  std::span<const int32_t> token_ids(int t) const {
    return {ids.data() + static_cast<size_t>(t) * k, static_cast<size_t>(k)};
  }
  std::span<const float> token_weights(int t) const {
    return {weights.data() + static_cast<size_t>(t) * k, static_cast<size_t>(k)};
  }
  int load(int instance) const {
    const size_t i = static_cast<size_t>(instance);
    return offsets[i + 1] - offsets[i];
  }
};

// Fills offsets and packed from `instances` (a counting sort); `count` is I.
void pack(RoutingPlan& plan, int count);

}  // namespace thermoe
