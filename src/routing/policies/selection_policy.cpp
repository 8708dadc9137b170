#include "routing/policies/selection_policy.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <numeric>

#include "routing/request_check.h"
#include "routing/top_k.h"
#include "thermoe/error.h"

namespace thermoe {
namespace {

double price_of(const std::vector<float>& prices, size_t instance) {
  return prices.empty() ? 0.0 : static_cast<double>(prices[instance]);
}

// cost(plan) of expert_prices.h.
double cost_of(const RoutingPlan& plan, const ExpertPrices& prices, const ExpertLayout* layout) {
  std::vector<double> devices(layout != nullptr ? static_cast<size_t>(layout->devices) : 1);
  for (size_t g = 0; g < devices.size(); ++g) devices[g] = price_of(prices.device_base, g);
  double cost = 0;
  for (size_t i = 0; i + 1 < plan.offsets.size(); ++i) {
    const int load = plan.load(static_cast<int>(i));
    if (load == 0) continue;
    const size_t device = layout != nullptr ? static_cast<size_t>(layout->instances[i].device) : 0;
    cost += price_of(prices.open, i) + price_of(prices.slope, i) * load;
    devices[device] += price_of(prices.device_open, i) + price_of(prices.device_slope, i) * load;
  }
  return cost + *std::max_element(devices.begin(), devices.end());
}

void place_in_first_instances(const ExpertLayout& layout, RoutingPlan& plan) {
  plan.instances.resize(plan.ids.size());
  std::transform(plan.ids.begin(), plan.ids.end(), plan.instances.begin(),
                 [&](int32_t id) { return id < 0 ? -1 : layout.first[static_cast<size_t>(id)]; });
}

}  // namespace

SelectionPolicy::SelectionPolicy(const char* name, const PolicyArguments& arguments)
    : name_(name), raw_weights_(arguments.choice("weights", {"own", "raw"}) == 1) {}

PolicyParameter SelectionPolicy::weights_parameter() {
  return {"weights", "own", "own: as published; raw: raw shares of the top-k mass"};
}

void SelectionPolicy::route(const RoutingRequest& request, RoutingPlan& plan) {
  check_request(request);
  fill_top_k(request, plan, masses_);
  plan.report = RoutingReport{};
  k_ = static_cast<size_t>(plan.k);
  top_ids_.assign(plan.ids.begin(), plan.ids.end());
  const int top_k_distinct = count_distinct(plan, seen_);

  choice_.tokens = plan.tokens;
  choice_.experts = plan.experts;
  choice_.used.assign(static_cast<size_t>(plan.tokens) * static_cast<size_t>(plan.experts), 0);
  choose(request, choice_);

  int slots = plan.k;
  for (int t = 0; t < plan.tokens; ++t) {
    const uint8_t* row = choice_.row(t);
    slots = std::max(slots, static_cast<int>(std::accumulate(row, row + plan.experts, 0)));
  }
  plan.k = slots;
  plan.ids.resize(static_cast<size_t>(plan.tokens) * static_cast<size_t>(slots));
  plan.weights.resize(plan.ids.size());
  for (int t = 0; t < plan.tokens; ++t) write_token(request, t, plan);
  plan.instances.clear();
  place(request, plan);
  finish_plan(request, masses_, top_k_distinct, plan);
}

void SelectionPolicy::write_token(const RoutingRequest& request, int token, RoutingPlan& plan) {
  const auto scores = request.scores.row_span(token);
  const size_t first = static_cast<size_t>(token) * static_cast<size_t>(plan.k);
  const std::span<int32_t> ids(plan.ids.data() + first, static_cast<size_t>(plan.k));
  const std::span<float> weights(plan.weights.data() + first, ids.size());
  std::fill(ids.begin(), ids.end(), -1);
  std::fill(weights.begin(), weights.end(), 0.0f);
  size_t used = 0;
  const uint8_t* row = choice_.row(token);
  for (int32_t e = 0; e < plan.experts; ++e)
    if (row[e] != 0) ids[used++] = e;
  const auto chosen = ids.first(used);
  std::sort(chosen.begin(), chosen.end(), [scores](int32_t a, int32_t b) {
    const float score_a = scores[static_cast<size_t>(a)], score_b = scores[static_cast<size_t>(b)];
    return score_a != score_b ? score_a > score_b : a < b;
  });
  const auto top = top_of(token);
  const bool same = std::equal(chosen.begin(), chosen.end(), top.begin(), top.end());
  plan.changed[static_cast<size_t>(token)] = same ? 0 : 1;
  if (same || raw_weights_)
    share_weights(scores, chosen, mass_of(token), request.renormalize, weights.first(used));
  else
    weigh(request, token, chosen, weights.first(used));
}

void SelectionPolicy::weigh(const RoutingRequest& request, int token, std::span<const int32_t> ids,
                            std::span<float> weights) {
  const auto scores = request.scores.row_span(token);
  float mass = 0.0f;
  for (const int32_t id : ids) mass += scores[static_cast<size_t>(id)];
  // Experts without any score have nothing to share out.
  share_weights(scores, ids, mass > 0.0f ? mass : 1.0f, request.renormalize, weights);
}

void SelectionPolicy::place(const RoutingRequest& /*request*/, RoutingPlan& /*plan*/) {}

void SelectionPolicy::choose_among(std::span<const float> scores, std::span<const uint8_t> open,
                                   int k, uint8_t* row) {
  // Selection by insertion, as select_top_k, over the open ones alone.
  best_.clear();
  for (size_t e = 0; e < scores.size(); ++e) {
    if (open[e] == 0) continue;
    const bool full = best_.size() == static_cast<size_t>(k);
    if (full && !(scores[e] > scores[static_cast<size_t>(best_.back())])) continue;
    const auto place = std::find_if(best_.begin(), best_.end(), [&](int32_t other) {
      return scores[e] > scores[static_cast<size_t>(other)];
    });
    best_.insert(place, static_cast<int32_t>(e));
    if (full) best_.pop_back();
  }
  for (const int32_t e : best_) row[e] = 1;
}

void finish_plan(const RoutingRequest& request, std::span<const float> masses, int top_k_distinct,
                 RoutingPlan& plan) {
  const ExpertLayout* layout = request.layout;
  if (layout != nullptr && layout->experts != plan.experts)
    throw InvalidArgument(
        fmt::format("the layout holds {} experts, the scores {}: give one for all", layout->experts,
                    plan.experts));
  if (plan.instances.empty()) {
    plan.instances = plan.ids;
    if (layout != nullptr) place_in_first_instances(*layout, plan);
  }
  pack(plan, layout != nullptr ? layout->count() : plan.experts);

  RoutingReport& report = plan.report;
  report.top_k_distinct_experts = top_k_distinct;
  double kept = 0;
  for (int t = 0; t < plan.tokens; ++t) {
    const auto scores = request.scores.row_span(t);
    double own = 0;
    for (const int32_t id : plan.token_ids(t))
      if (id >= 0) own += static_cast<double>(scores[static_cast<size_t>(id)]);
    // A token with more experts than k keeps no more than all of its top-k mass.
    kept += std::min(1.0, own / static_cast<double>(masses[static_cast<size_t>(t)]));
    report.changed_tokens += plan.changed[static_cast<size_t>(t)];
  }
  report.gate_mass_frac = report.changed_tokens == 0 ? 1.0 : std::min(1.0, kept / plan.tokens);
  report.utility = report.gate_mass_frac * plan.tokens;
  int last_expert = -1;
  for (int i = 0; i + 1 < static_cast<int>(plan.offsets.size()); ++i) {
    if (plan.load(i) == 0) continue;
    const int expert = layout != nullptr ? layout->instances[static_cast<size_t>(i)].expert : i;
    report.distinct_experts += expert != last_expert ? 1 : 0;  // instances stand by expert
    ++report.distinct_instances;
    last_expert = expert;
  }
  if (request.prices != nullptr) report.cost = cost_of(plan, *request.prices, layout);
  report.objective = report.utility - report.cost;
  report.bound = plan.tokens;
  report.gap_frac = (report.bound - report.objective) / report.bound;
}

void order_by_score(std::span<const float> scores, std::vector<int32_t>& order) {
  order.resize(scores.size());
  std::iota(order.begin(), order.end(), 0);
  std::sort(order.begin(), order.end(), [scores](int32_t a, int32_t b) {
    const float score_a = scores[static_cast<size_t>(a)], score_b = scores[static_cast<size_t>(b)];
    return score_a != score_b ? score_a > score_b : a < b;
  });
}

double exact_score(float score) {
  constexpr double kUnits = 1099511627776.0;  // 2^40
  return std::nearbyint(static_cast<double>(score) * kUnits) / kUnits;
}

}  // namespace thermoe
