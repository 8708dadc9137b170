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

void check_prices(const std::vector<float>& prices, const char* what, int64_t experts) {
  if (prices.empty()) return;
  if (static_cast<int64_t>(prices.size()) != experts)
    throw InvalidArgument(fmt::format("{} {} prices for {} experts: give one for each, or none",
                                      prices.size(), what, experts));
  for (size_t e = 0; e < prices.size(); ++e)
    if (!(prices[e] >= 0.0f) || !std::isfinite(prices[e]))
      throw InvalidArgument(
          fmt::format("{} price of expert {} is {}: prices must be finite and not negative", what,
                      e, prices[e]));
}

}  // namespace

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
  check_scores(scores);
  if (request.prices != nullptr) {
    check_prices(request.prices->open, "opening", scores.cols);
    check_prices(request.prices->slope, "slope", scores.cols);
  }
}

}  // namespace thermoe
