// lynx: the batch votes which experts stay. Gupta, Ju, Sinha, Gavrilovska, Iyer 2024, "Lynx:
// Enabling Efficient MoE Inference through Dynamic Batch-Aware Expert Selection"
// (arXiv:2411.08982): votes are its first version's rule, binned confidence (AffinityBinning) the
// later versions', read in their code (gt-nexs/lynx, policy "quant").
// Implemented, bins: q = ceil(alpha * (logit - the token's highest)), not below -beta where beta is
// given; h = T^q with T the tokens of the batch; each token ranks experts by q plus the mean of the
// others' h (sum of h less its own, over T, so others decide within a bin only); the union of these
// top-k stays. Votes, where keep or drop is given: the experts that most tokens have in their top-k
// stay, `keep` of them or all but the `drop` least wanted (k at least). Then each token takes its
// top-k of what stays. Weights by the model's rule on the new set; where the model doesn't
// renormalise they are scaled to the mass of the token's own top-k.
// Ties are not specified: within a bin the token's own score decides, then the lower id; among
// votes the summed score. Logits are the scores' logarithms.
#include <algorithm>
#include <cmath>
#include <numeric>

#include "routing/policies/makers.h"
#include "routing/policies/selection_policy.h"
#include "thermoe/error.h"

namespace thermoe {
namespace {

class Lynx : public SelectionPolicy {
 public:
  explicit Lynx(const PolicyArguments& arguments)
      : SelectionPolicy("lynx", arguments),
        alpha_(arguments.number("alpha", 1e-6, 1e6)),
        beta_(arguments.has("beta") ? arguments.number("beta", 1.0, 1e9) : HUGE_VAL),
        keep_(arguments.has("keep") ? arguments.integer("keep", 1) : 0),
        drop_(arguments.has("drop") ? arguments.integer("drop", 0) : -1) {
    if (keep_ > 0 && drop_ >= 0) throw InvalidArgument("policy lynx: give keep or drop, not both");
  }

 protected:
  void choose(const RoutingRequest& request, Choice& choice) override {
    open_.assign(static_cast<size_t>(choice.experts), 0);
    if (keep_ > 0 || drop_ >= 0)
      vote(request);
    else
      bin(request);
    for (int t = 0; t < choice.tokens; ++t)
      choose_among(request.scores.row_span(t), open_, request.k, choice.row(t));
  }

  void weigh(const RoutingRequest& request, int token, std::span<const int32_t> ids,
             std::span<float> weights) override {
    SelectionPolicy::weigh(request, token, ids, weights);
    if (request.renormalize) return;
    const float mass = std::accumulate(weights.begin(), weights.end(), 0.0f);
    if (mass > 0.0f)
      for (float& weight : weights) weight *= mass_of(token) / mass;
  }

 private:
  void vote(const RoutingRequest& request) {
    votes_.assign(open_.size(), 0);
    sums_.assign(open_.size(), 0.0);
    for (int t = 0; t < static_cast<int>(request.scores.rows); ++t) {
      for (const int32_t e : top_of(t)) ++votes_[static_cast<size_t>(e)];
      const auto scores = request.scores.row_span(t);
      for (size_t e = 0; e < open_.size(); ++e) sums_[e] += exact_score(scores[e]);
    }
    order_.resize(open_.size());
    std::iota(order_.begin(), order_.end(), 0);
    std::sort(order_.begin(), order_.end(), [this](int32_t a, int32_t b) {
      const size_t i = static_cast<size_t>(a), j = static_cast<size_t>(b);
      if (votes_[i] != votes_[j]) return votes_[i] > votes_[j];
      return sums_[i] != sums_[j] ? sums_[i] > sums_[j] : a < b;
    });
    const auto wanted =
        open_.size() - static_cast<size_t>(std::count(votes_.begin(), votes_.end(), 0));
    int stay = keep_ > 0 ? keep_ : static_cast<int>(wanted) - drop_;
    stay = std::min(std::max(stay, request.k), static_cast<int>(open_.size()));
    for (int i = 0; i < stay; ++i) open_[static_cast<size_t>(order_[static_cast<size_t>(i)])] = 1;
  }

  void bin(const RoutingRequest& request) {
    const int tokens = static_cast<int>(request.scores.rows);
    const size_t experts = open_.size();
    bins_.resize(static_cast<size_t>(tokens) * experts);
    sums_.assign(experts, 0.0);
    for (int t = 0; t < tokens; ++t) {
      const auto scores = request.scores.row_span(t);
      const double top = static_cast<double>(scores[static_cast<size_t>(top_of(t).front())]);
      for (size_t e = 0; e < experts; ++e) {
        const double logit = std::log(static_cast<double>(scores[e]) / top);
        const double q = std::max(std::ceil(alpha_ * logit), -beta_);
        bins_[static_cast<size_t>(t) * experts + e] = q;
        sums_[e] += confidence(q, tokens);
      }
    }
    for (int t = 0; t < tokens; ++t) rank_binned(request, t, tokens);
  }

  // T^q, rounded so that sums don't depend on the order of the tokens.
  static double confidence(double bin, int tokens) {
    return exact_score(static_cast<float>(std::pow(static_cast<double>(tokens), bin)));
  }

  void rank_binned(const RoutingRequest& request, int t, int tokens) {
    const auto scores = request.scores.row_span(t);
    ranks_.resize(open_.size());
    for (size_t e = 0; e < ranks_.size(); ++e) {
      const double q = bins_[static_cast<size_t>(t) * ranks_.size() + e];
      ranks_[e] = q + (sums_[e] - confidence(q, tokens)) / tokens;
    }
    order_.resize(ranks_.size());
    std::iota(order_.begin(), order_.end(), 0);
    std::partial_sort(order_.begin(), order_.begin() + request.k, order_.end(),
                      [&](int32_t a, int32_t b) {
                        const size_t i = static_cast<size_t>(a), j = static_cast<size_t>(b);
                        if (ranks_[i] != ranks_[j]) return ranks_[i] > ranks_[j];
                        return scores[i] != scores[j] ? scores[i] > scores[j] : a < b;
                      });
    for (int i = 0; i < request.k; ++i)
      open_[static_cast<size_t>(order_[static_cast<size_t>(i)])] = 1;
  }

  double alpha_, beta_;
  int keep_, drop_;
  std::vector<uint8_t> open_;
  std::vector<int> votes_;
  std::vector<double> sums_, bins_, ranks_;
  std::vector<int32_t> order_;
};

}  // namespace

PolicyMaker lynx_policy() {
  return {.info = {.name = "lynx",
                   .summary = "the experts that the batch votes for, top-k inside",
                   .source = "Gupta et al. 2024, Lynx",
                   .parameters = {{"alpha", "1", "bins per unit of logit"},
                                  {"beta", "", "lowest bin is -beta"},
                                  {"keep", "", "by votes: so many experts stay"},
                                  {"drop", "", "by votes: so many of those in use go"},
                                  SelectionPolicy::weights_parameter()}},
          .make = make_policy<Lynx>};
}

}  // namespace thermoe
