// RoutingPlan: which experts each token of a batch goes to, with which weight, packed per expert.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace thermoe {

// What a plan is worth and how far from the best it can be. Utility: 1 per unmodified token.
struct RoutingReport {
  double objective = 0;            // utility minus opening and slope prices
  double bound = 0;                // no plan's objective exceeds this (weak duality)
  double gap_frac = 0;             // (bound - objective) / max(|bound|, 1e-12), >= 0
  double gate_mass_frac = 1;       // kept share of the tokens' own top-k mass, mean over tokens
  int distinct_experts = 0;        // experts that at least one token uses
  int top_k_distinct_experts = 0;  // what plain top-k would have used
  int changed_tokens = 0;          // tokens whose set of experts differs from their top-k
};

// One batch's plan: T tokens, k experts each, out of E. Reused from step to step: its vectors keep
// their capacity, so planning allocates nothing in the steady state.
struct RoutingPlan {
  int tokens = 0, experts = 0, k = 0;
  std::vector<int32_t> ids;    // [T, k] by falling score, ties by lower id; distinct within a token
  std::vector<float> weights;  // [T, k] the share of each expert's output in the token's
  std::vector<uint8_t> changed;  // [T] 1 where the token's set differs from its top-k
  RoutingReport report;

  // Tile-packed order: the pairs of expert e are packed[offsets[e]] .. packed[offsets[e + 1] - 1],
  // each an index into ids (token * k + slot), by rising token.
  std::vector<int32_t> offsets;  // [E + 1]
  std::vector<int32_t> packed;   // [T * k]

  std::span<const int32_t> token_ids(int t) const {
    return {ids.data() + static_cast<size_t>(t) * k, static_cast<size_t>(k)};
  }
  std::span<const float> token_weights(int t) const {
    return {weights.data() + static_cast<size_t>(t) * k, static_cast<size_t>(k)};
  }
  int load(int expert) const { return offsets[expert + 1] - offsets[expert]; }
};

// Fills offsets and packed from ids (a counting sort).
void pack(RoutingPlan& plan);

}  // namespace thermoe
