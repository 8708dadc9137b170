// tileround: each expert's tokens are rounded to whole GEMM tiles. Guo, Mishra, Cheng, Stoica, Dao
// 2025, "SonicMoE: Accelerating MoE with IO and Tile-aware Optimizations" (arXiv:2512.14080),
// section 5, token rounding, and the authors' benchmark (Dao-AILab/sonic-moe).
// Implemented: an expert's top-k count is rounded to a multiple of `tile`: nearest (halves to even
// multiples), up or down, at most T. It ranks all tokens, first those that have it in their top-k,
// by the normalised weight, then the others by score (ties: earlier token), and takes the rounded
// number from the front. So a token may end with more experts than k, or with none. tile = 1 is
// top-k. Weights by the model's rule on the token's new set; the paper trains with the rule and its
// benchmark weighs by the plain scores.
// A rule for the large batches of training: at T * k / E well below the tile most experts round to
// nothing.
#include <algorithm>
#include <cmath>
#include <numeric>

#include "routing/policies/makers.h"
#include "routing/policies/selection_policy.h"

namespace thermoe {
namespace {

class TileRound : public SelectionPolicy {
 public:
  explicit TileRound(const PolicyArguments& arguments)
      : SelectionPolicy("tileround", arguments),
        tile_(arguments.integer("tile", 1, 1 << 20)),
        rule_(arguments.choice("round", {"nearest", "up", "down"})) {}

 protected:
  void choose(const RoutingRequest& request, Choice& choice) override {
    for (int t = 0; t < choice.tokens; ++t)
      for (const int32_t e : top_of(t)) choice.row(t)[e] = 1;
    for (int e = 0; e < choice.experts; ++e) round(request, e, choice);
  }

 private:
  size_t rounded(int count, int tokens) const {
    const double tiles = static_cast<double>(count) / tile_;
    const double whole = rule_ == 0   ? std::nearbyint(tiles)
                         : rule_ == 1 ? std::ceil(tiles)
                                      : std::floor(tiles);
    return static_cast<size_t>(std::min(whole * tile_, static_cast<double>(tokens)));
  }

  void round(const RoutingRequest& request, int expert, Choice& choice) {
    order_.resize(static_cast<size_t>(choice.tokens));
    std::iota(order_.begin(), order_.end(), 0);
    const auto middle = std::stable_partition(order_.begin(), order_.end(),
                                              [&](int t) { return choice.row(t)[expert] != 0; });
    const size_t count = rounded(static_cast<int>(middle - order_.begin()), choice.tokens);
    const auto score = [&](int t) { return request.scores(t, expert); };
    std::stable_sort(order_.begin(), middle,
                     [&](int a, int b) { return score(a) / mass_of(a) > score(b) / mass_of(b); });
    std::stable_sort(middle, order_.end(), [&](int a, int b) { return score(a) > score(b); });
    for (size_t i = 0; i < order_.size(); ++i) choice.row(order_[i])[expert] = i < count ? 1 : 0;
  }

  int tile_;
  size_t rule_;
  std::vector<int> order_;
};

}  // namespace

PolicyMaker tile_round_policy() {
  return {.info = {.name = "tileround",
                   .summary = "each expert's number of tokens is rounded to whole GEMM tiles",
                   .source = "Guo et al. 2025, SonicMoE token rounding",
                   .parameters = {{"tile", "16", "tokens of a tile"},
                                  {"round", "nearest", "nearest, up or down"},
                                  SelectionPolicy::weights_parameter()}},
          .make = make_policy<TileRound>};
}

}  // namespace thermoe
