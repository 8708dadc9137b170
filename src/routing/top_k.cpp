#include "routing/top_k.h"

#include <fmt/format.h>

#include <algorithm>

#include "routing/request_check.h"
#include "thermoe/error.h"

namespace thermoe {

void select_top_k(std::span<const float> scores, std::span<int32_t> ids) {
  const size_t k = ids.size();
  size_t held = 0;
  for (size_t e = 0; e < scores.size(); ++e) {
    const float score = scores[e];
    // Strict comparison: an equal score that comes later (a higher id) stays behind.
    if (held == k && !(score > scores[static_cast<size_t>(ids[k - 1])])) continue;
    size_t slot = held < k ? held++ : k - 1;
    for (; slot > 0 && score > scores[static_cast<size_t>(ids[slot - 1])]; --slot)
      ids[slot] = ids[slot - 1];
    ids[slot] = static_cast<int32_t>(e);
  }
}

float top_k_mass(std::span<const float> scores, std::span<const int32_t> ids, int64_t token) {
  float mass = 0.0f;
  for (const int32_t id : ids) mass += scores[static_cast<size_t>(id)];
  if (!(mass > 0.0f))
    throw InvalidArgument(
        fmt::format("all scores of token {} are zero: nothing says where it should go", token));
  return mass;
}

void share_weights(std::span<const float> scores, std::span<const int32_t> ids, float mass,
                   bool renormalize, std::span<float> weights) {
  for (size_t slot = 0; slot < ids.size(); ++slot) {
    const float score = scores[static_cast<size_t>(ids[slot])];
    weights[slot] = renormalize ? score / mass : score;
  }
}

void fill_top_k(const RoutingRequest& request, RoutingPlan& plan, std::vector<float>& masses) {
  plan.tokens = static_cast<int>(request.scores.rows);
  plan.experts = static_cast<int>(request.scores.cols);
  plan.k = request.k;
  const size_t k = static_cast<size_t>(plan.k), tokens = static_cast<size_t>(plan.tokens);
  plan.ids.resize(tokens * k);
  plan.weights.resize(tokens * k);
  plan.changed.assign(tokens, 0);
  masses.resize(tokens);
  for (size_t t = 0; t < tokens; ++t) {
    const auto scores = request.scores.row_span(static_cast<int64_t>(t));
    const std::span<int32_t> ids(plan.ids.data() + t * k, k);
    select_top_k(scores, ids);
    masses[t] = top_k_mass(scores, ids, static_cast<int64_t>(t));
    share_weights(scores, ids, masses[t], request.renormalize, {plan.weights.data() + t * k, k});
  }
  plan.instances = plan.ids;
}

int count_distinct(const RoutingPlan& plan, std::vector<uint8_t>& seen) {
  seen.assign(static_cast<size_t>(plan.experts), 0);
  for (const int32_t id : plan.ids) seen[static_cast<size_t>(id)] = 1;
  return static_cast<int>(std::count(seen.begin(), seen.end(), uint8_t{1}));
}

void TopKPolicy::route(const RoutingRequest& request, RoutingPlan& plan) {
  check_request(request);
  fill_top_k(request, plan, masses_);
  const ExpertLayout* layout = request.layout;
  if (layout != nullptr)
    std::transform(plan.ids.begin(), plan.ids.end(), plan.instances.begin(),
                   [layout](int32_t id) { return layout->first[static_cast<size_t>(id)]; });
  pack(plan, layout != nullptr ? layout->count() : plan.experts);
  plan.report = RoutingReport{};
  plan.report.objective = plan.report.bound = plan.tokens;  // every token keeps its whole mass
  plan.report.utility = plan.tokens;
  plan.report.distinct_experts = plan.report.distinct_instances =
      plan.report.top_k_distinct_experts = count_distinct(plan, seen_);
}

}  // namespace thermoe
