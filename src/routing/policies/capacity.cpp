// capdrop, capexpand: no expert takes more than its capacity. He, Cai, Huang, Li 2025,
// "Capacity-Aware Inference: Mitigating the Straggler Effect in Mixture of Experts" (ICLR 2026,
// arXiv:2503.05066), sections 3.2 (token drop) and 3.3 (expanded drop), and the authors' code
// (CASE-Lab-UMD/Capacity-Aware-MoE, strategies "score" and "overselect").
// Implemented: capacity = ceil(factor * k * T / E), 1 at least; a batch of one token has none. An
// expert whose candidates are more keeps those of highest score (ties: earlier token). Candidates
// of capdrop are the tokens' top-k; of capexpand their top ceil(k * rounds), so that who is turned
// away at a full expert finds one with room; each token then uses the k best that kept it. A token
// that all turned away goes to its first expert all the same, as in the authors' code. Weights by
// the model's rule on the token's new set.
// Doubt: the paper expands to experts on the token's own device; the authors' code, and this, to
// the next in rank.
#include <algorithm>
#include <cmath>

#include "routing/policies/makers.h"
#include "routing/policies/selection_policy.h"

namespace thermoe {
namespace {

class Capacity : public SelectionPolicy {
 public:
  Capacity(const char* name, const PolicyArguments& arguments, double rounds)
      : SelectionPolicy(name, arguments),
        factor_(arguments.number("factor", 0.0, 1e6)),
        rounds_(rounds) {}

 protected:
  void choose(const RoutingRequest& request, Choice& choice) override {
    const int candidates =
        std::min(choice.experts, static_cast<int>(std::ceil(std::min(rounds_ * request.k, 1e6))));
    if (candidates == request.k || choice.tokens == 1) {
      for (int t = 0; t < choice.tokens; ++t)
        for (const int32_t e : top_of(t)) choice.row(t)[e] = 1;
    } else {
      all_.assign(static_cast<size_t>(choice.experts), 1);
      for (int t = 0; t < choice.tokens; ++t)
        choose_among(request.scores.row_span(t), all_, candidates, choice.row(t));
    }
    if (choice.tokens == 1) return;
    const double mean = static_cast<double>(request.k) * choice.tokens / choice.experts;
    const double capacity = std::max(1.0, std::ceil(factor_ * mean));
    for (int e = 0; e < choice.experts; ++e) turn_away(request, e, capacity, choice);
    for (int t = 0; t < choice.tokens; ++t) settle(request, t, choice.row(t));
  }

 private:
  void turn_away(const RoutingRequest& request, int expert, double capacity, Choice& choice) {
    queue_.clear();
    for (int t = 0; t < choice.tokens; ++t)
      if (choice.row(t)[expert] != 0) queue_.push_back(t);
    if (static_cast<double>(queue_.size()) <= capacity) return;
    std::stable_sort(queue_.begin(), queue_.end(), [&](int a, int b) {
      return request.scores(a, expert) > request.scores(b, expert);
    });
    for (size_t i = static_cast<size_t>(capacity); i < queue_.size(); ++i)
      choice.row(queue_[i])[expert] = 0;
  }

  void settle(const RoutingRequest& request, int t, uint8_t* row) {
    kept_.assign(row, row + request.scores.cols);
    std::fill(row, row + request.scores.cols, uint8_t{0});
    choose_among(request.scores.row_span(t), kept_, request.k, row);
    if (std::find(row, row + request.scores.cols, 1) == row + request.scores.cols)
      row[top_of(t).front()] = 1;
  }

  double factor_, rounds_;
  std::vector<uint8_t> all_, kept_;
  std::vector<int> queue_;
};

std::unique_ptr<RoutingPolicy> make_drop(const PolicyArguments& arguments, const PolicyContext&) {
  return std::make_unique<Capacity>("capdrop", arguments, 1.0);
}

std::unique_ptr<RoutingPolicy> make_expand(const PolicyArguments& arguments, const PolicyContext&) {
  return std::make_unique<Capacity>("capexpand", arguments, arguments.number("rounds", 1.0, 1e6));
}

}  // namespace

PolicyMaker capacity_drop_policy() {
  return {.info = {.name = "capdrop",
                   .summary = "experts turn away the lowest scores above their capacity",
                   .source = "He et al. 2025, capacity-aware token drop",
                   .parameters = {{"factor", "1", "capacity, of the mean load T k / E"},
                                  SelectionPolicy::weights_parameter()}},
          .make = make_drop};
}

PolicyMaker capacity_expand_policy() {
  return {.info = {.name = "capexpand",
                   .summary = "as capdrop, with more candidates than k for each token",
                   .source = "He et al. 2025, capacity-aware expanded drop",
                   .parameters = {{"factor", "1", "capacity, of the mean load T k / E"},
                                  {"rounds", "2", "candidates of a token, of k"},
                                  SelectionPolicy::weights_parameter()}},
          .make = make_expand};
}

}  // namespace thermoe
