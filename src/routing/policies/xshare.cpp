// xshare: one set of experts for the batch, by summed score. Vankov, Ivkin, Ulrich, Song, Khetan,
// Karypis 2026, "XShare: Collaborative in-Batch Expert Sharing for Faster MoE Inference"
// (arXiv:2602.07265), section 3.4, the algorithm for plain batches.
// Implemented: the union of the tokens' top-`warm` experts is always kept, even above the budget;
// then experts are added by falling score summed over the batch (all tokens, gate probabilities)
// until the set holds `budget`; each token takes its top-k inside the set. Weights by the model's
// rule on the token's new set. Ties by lower id. The paper's hierarchical form for speculative
// decoding and its per-GPU budgets are not here.
#include <algorithm>
#include <numeric>

#include "routing/policies/makers.h"
#include "routing/policies/selection_policy.h"

namespace thermoe {
namespace {

class XShare : public SelectionPolicy {
 public:
  explicit XShare(const PolicyArguments& arguments)
      : SelectionPolicy("xshare", arguments),
        budget_(arguments.integer("budget", 1)),
        warm_(arguments.integer("warm", 0)) {}

 protected:
  void choose(const RoutingRequest& request, Choice& choice) override {
    const size_t experts = static_cast<size_t>(choice.experts);
    open_.assign(experts, 0);
    sums_.assign(experts, 0.0);
    for (int t = 0; t < choice.tokens; ++t) {
      const auto scores = request.scores.row_span(t);
      for (size_t e = 0; e < experts; ++e) sums_[e] += exact_score(scores[e]);
      for (const int32_t e : top_of(t).first(static_cast<size_t>(std::min(warm_, request.k))))
        open_[static_cast<size_t>(e)] = 1;
    }
    order_.resize(experts);
    std::iota(order_.begin(), order_.end(), size_t{0});
    std::sort(order_.begin(), order_.end(), [this](size_t a, size_t b) {
      return sums_[a] != sums_[b] ? sums_[a] > sums_[b] : a < b;
    });
    int held = std::accumulate(open_.begin(), open_.end(), 0);
    for (const size_t e : order_) {
      if (held >= budget_) break;
      if (open_[e] != 0) continue;
      open_[e] = 1;
      ++held;
    }
    for (int t = 0; t < choice.tokens; ++t)
      choose_among(request.scores.row_span(t), open_, request.k, choice.row(t));
  }

 private:
  int budget_, warm_;
  std::vector<uint8_t> open_;
  std::vector<double> sums_;
  std::vector<size_t> order_;
};

}  // namespace

PolicyMaker xshare_policy() {
  return {.info = {.name = "xshare",
                   .summary = "a budget of experts for the batch by summed score, top-k inside",
                   .source = "Vankov et al. 2026, XShare",
                   .parameters = {{"budget", "32", "experts of a batch"},
                                  {"warm", "1", "each token's first experts that are always kept"},
                                  SelectionPolicy::weights_parameter()}},
          .make = make_policy<XShare>};
}

}  // namespace thermoe
