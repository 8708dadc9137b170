#include "routing/request_check.h"

#include <fmt/format.h>

#include <cmath>

#include "thermoe/error.h"

namespace thermoe {
namespace {

void check_scores(ConstMatrix scores) {
  for (int64_t t = 0; t < scores.rows; ++t) {
    const float* row = scores.row(t);
    // One pass that vectorises; the culprit is looked for only when there is one.
    bool good = true;
    for (int64_t e = 0; e < scores.cols; ++e) good &= (row[e] >= 0.0f) & (row[e] <= 3.4e38f);
    if (good) continue;
    for (int64_t e = 0; e < scores.cols; ++e)
      if (!(row[e] >= 0.0f) || !std::isfinite(row[e]))
        throw InvalidArgument(fmt::format(
            "score of token {}, expert {} is {}: scores must be finite and not negative; look for "
            "damaged weights or an overflow before the router",
            t, e, row[e]));
  }
}

// `of` says what there is a price for: expert, instance, device.
void check_prices(const std::vector<float>& prices, const char* what, const char* of,
                  int64_t count) {
  if (prices.empty()) return;
  if (static_cast<int64_t>(prices.size()) != count)
    throw InvalidArgument(fmt::format("{} {} prices for {} {}s: give one for each, or none",
                                      prices.size(), what, count, of));
  for (size_t e = 0; e < prices.size(); ++e)
    if (!(prices[e] >= 0.0f) || !std::isfinite(prices[e]))
      throw InvalidArgument(
          fmt::format("{} price of {} {} is {}: prices must be finite and not negative", what, of,
                      e, prices[e]));
}

void check_errors(const ExpertLayout& layout) {
  if (layout.error_frac.empty()) return;
  if (static_cast<int>(layout.error_frac.size()) != layout.count())
    throw InvalidArgument(fmt::format("{} errors for {} instances: give one for each, or none",
                                      layout.error_frac.size(), layout.count()));
  for (size_t i = 0; i < layout.error_frac.size(); ++i)
    if (!(layout.error_frac[i] >= 0.0f && layout.error_frac[i] < 1.0f))
      throw InvalidArgument(fmt::format("error_frac of instance {} is {}: it must be in [0, 1)", i,
                                        layout.error_frac[i]));
}

void check_layout(const ExpertLayout& layout, int64_t experts) {
  if (layout.experts != experts)
    throw InvalidArgument(fmt::format("the layout is for {} experts, the scores are for {}",
                                      layout.experts, experts));
  if (layout.first.size() != static_cast<size_t>(layout.experts) + 1 ||
      layout.first.back() != layout.count())
    throw InvalidArgument(
        "the layout's first index does not fit its instances: make layouts with "
        "ExpertLayout::of_instances");
  check_errors(layout);
  if (layout.capacity.empty()) return;
  if (static_cast<int>(layout.capacity.size()) != layout.count())
    throw InvalidArgument(fmt::format("{} capacities for {} instances: give one for each, or none",
                                      layout.capacity.size(), layout.count()));
  for (size_t i = 0; i < layout.capacity.size(); ++i)
    if (layout.capacity[i] < 0)
      throw InvalidArgument(fmt::format("capacity of instance {} is {}: it must not be negative", i,
                                        layout.capacity[i]));
}

}  // namespace

void check_goal(const RoutingGoal& goal) {
  if (goal.kind == RoutingGoal::Kind::kLeastCost && !(goal.limit >= 0.0 && goal.limit <= 1.0))
    throw InvalidArgument(fmt::format(
        "the goal keeps {} of top-k's utility: it must be between 0 and 1", goal.limit));
  if (goal.kind == RoutingGoal::Kind::kBestQuality &&
      !(goal.limit >= 0.0 && std::isfinite(goal.limit)))
    throw InvalidArgument(fmt::format(
        "the goal's limit of cost is {}: it must be finite and not negative", goal.limit));
}

void check_request(const RoutingRequest& request) {
  const ConstMatrix& scores = request.scores;
  if (scores.rows < 1 || scores.cols < 1)
    throw InvalidArgument(
        fmt::format("nothing to route: scores are [{}, {}], need at least one token "
                    "and one expert",
                    scores.rows, scores.cols));
  if (request.k < 1 || request.k > scores.cols)
    throw InvalidArgument(fmt::format("k is {}: it must be between 1 and the number of experts, {}",
                                      request.k, scores.cols));
  if (request.min_k < 0 || request.min_k > request.k)
    throw InvalidArgument(
        fmt::format("min_k is {}: it must be between 1 and k, {}, or 0 for the "
                    "policy's own",
                    request.min_k, request.k));
  if (request.layer < 0)
    throw InvalidArgument(fmt::format("layer is {}: it must be 0 or more", request.layer));
  if (request.layout != nullptr) check_layout(*request.layout, scores.cols);
  if (request.goal) check_goal(*request.goal);
  check_scores(scores);
  if (request.prices == nullptr) return;
  const bool laid_out = request.layout != nullptr;
  const int64_t count = laid_out ? request.layout->count() : scores.cols;
  const char* of = laid_out ? "instance" : "expert";
  check_prices(request.prices->open, "opening", of, count);
  check_prices(request.prices->slope, "slope", of, count);
  check_prices(request.prices->device_open, "device opening", of, count);
  check_prices(request.prices->device_slope, "device slope", of, count);
  check_prices(request.prices->device_base, "base", "device",
               laid_out ? request.layout->devices : 1);
}

}  // namespace thermoe
