// oea: opportunistic expert activation. Oncescu, Wu, Chung, Wu, Gopal, Wang, Dao, Athiwaratkun
// 2025, "Opportunistic Expert Activation: Batch-Aware Expert Routing for Faster Decode Without
// Retraining" (arXiv:2511.02237), section 3; the defaults are its simplified form, Algorithm 1.
// Implemented: phase 1, each token's baseline is its top-k0, or the shortest prefix with a share p
// of all its scores where that is shorter (p = 1: always k0). The baselines' union is open. Phase
// 2, each token walks its ranking below the baseline, up to rank maxp, and takes what is open until
// it has kmax experts. Weights: shares of the chosen set's mass (its equation 1).
// Doubt: the paper found p < 1, kmax > k and maxp < E of no use and drops them; how its p and k0
// combine is read as the shorter of the two.
#include <numeric>

#include "routing/policies/makers.h"
#include "routing/policies/selection_policy.h"

namespace thermoe {
namespace {

class Oea : public SelectionPolicy {
 public:
  explicit Oea(const PolicyArguments& arguments)
      : SelectionPolicy("oea", arguments),
        k0_(arguments.integer("k0", 1)),
        kmax_(arguments.integer("kmax", 0)),
        p_(arguments.number("p", 0.0, 1.0)),
        max_rank_(arguments.integer("maxp", 0)) {}

 protected:
  void choose(const RoutingRequest& request, Choice& choice) override {
    const size_t experts = static_cast<size_t>(choice.experts);
    open_.assign(experts, 0);
    for (int t = 0; t < choice.tokens; ++t)
      for (const int32_t e : baseline(request, t))
        choice.row(t)[e] = open_[static_cast<size_t>(e)] = 1;
    const int most = kmax_ > 0 ? kmax_ : request.k;
    const size_t ranks =
        max_rank_ > 0 ? std::min(experts, static_cast<size_t>(max_rank_)) : experts;
    for (int t = 0; t < choice.tokens; ++t) {
      uint8_t* row = choice.row(t);
      if (ranks == experts) {  // the baseline is open and ranks first: it is among the best
        choose_among(request.scores.row_span(t), open_, most, row);
        continue;
      }
      order_by_score(request.scores.row_span(t), order_);
      int held = std::accumulate(row, row + choice.experts, 0);
      for (size_t rank = 0; rank < ranks && held < most; ++rank) {
        const int32_t e = order_[rank];
        if (row[e] != 0 || open_[static_cast<size_t>(e)] == 0) continue;
        row[e] = 1;
        ++held;
      }
    }
  }

 private:
  std::span<const int32_t> baseline(const RoutingRequest& request, int t) const {
    const int count_kept = std::min({k0_, request.k, kmax_ > 0 ? kmax_ : request.k});
    const auto top = top_of(t).first(static_cast<size_t>(count_kept));
    if (p_ >= 1.0) return top;
    const auto scores = request.scores.row_span(t);
    const double wanted = p_ * std::accumulate(scores.begin(), scores.end(), 0.0);
    double held = 0;
    for (size_t count = 0; count < top.size(); ++count) {
      held += static_cast<double>(scores[static_cast<size_t>(top[count])]);
      if (held >= wanted) return top.first(count + 1);
    }
    return top;
  }

  int k0_, kmax_;
  double p_;
  int max_rank_;
  std::vector<uint8_t> open_;
  std::vector<int32_t> order_;
};

}  // namespace

PolicyMaker oea_policy() {
  return {.info = {.name = "oea",
                   .summary = "keep top-k0, refill to k from the union over the batch",
                   .source = "Oncescu et al. 2025, opportunistic expert activation",
                   .parameters = {{"k0", "4", "experts that every token keeps"},
                                  {"kmax", "0", "most experts of a token; 0: the model's k"},
                                  {"p", "1", "share of a token's scores that ends its baseline"},
                                  {"maxp", "0", "lowest rank to refill from; 0: any"},
                                  SelectionPolicy::weights_parameter()}},
          .make = make_policy<Oea>};
}

}  // namespace thermoe
