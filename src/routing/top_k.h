#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "thermoe/adaptive_router.h"
#include "thermoe/routing_plan.h"

namespace thermoe {

// The k highest of `scores` [E], into ids [k] by falling score, ties by lower id.
void select_top_k(std::span<const float> scores, std::span<int32_t> ids);

// Sum of the chosen scores in the order of `ids`: the divisor of every weight of the token.
// Throws InvalidArgument where it is zero (no expert has any score).
float top_k_mass(std::span<const float> scores, std::span<const int32_t> ids, int64_t token);

// Weights of a token that goes to `ids`: the raw share of each in the token's own top-k mass, or
// the scores themselves where the model does not renormalise. One formula for changed and unchanged
// tokens, so that an unchanged token keeps its weights bit for bit.
void share_weights(std::span<const float> scores, std::span<const int32_t> ids, float mass,
                   bool renormalize, std::span<float> weights);

// Sizes `plan` for the request and fills it with plain top-k (ids, weights, changed = 0), and
// masses [T] with top_k_mass. Leaves packing and the report to the caller.
void fill_top_k(const RoutingRequest& request, RoutingPlan& plan, std::vector<float>& masses);

// How many experts the plan's ids use. `seen` is scratch.
int count_distinct(const RoutingPlan& plan, std::vector<uint8_t>& seen);

}  // namespace thermoe
