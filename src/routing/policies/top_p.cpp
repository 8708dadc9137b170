// topp: as many experts as the gate's confidence asks for. Huang et al. 2024, "Harder Tasks Need
// More Experts: Dynamic Routing in MoE Models" (arXiv:2403.07652), section 3.2.
// Implemented: the shortest prefix of a token's top-k whose share of the top-k mass reaches p. The
// paper takes the share of all experts' mass and has no k, as it trains with the rule; on a model
// trained with top-k the share of the top-k keeps the number within k. p = 1 keeps all k. Weights
// by the model's rule on the smaller set.
#include "routing/policies/makers.h"
#include "routing/policies/selection_policy.h"

namespace thermoe {
namespace {

class TopP : public SelectionPolicy {
 public:
  explicit TopP(const PolicyArguments& arguments)
      : SelectionPolicy("topp", arguments), p_(arguments.number("p", 0.0, 1.0)) {}

 protected:
  void choose(const RoutingRequest& request, Choice& choice) override {
    for (int t = 0; t < choice.tokens; ++t) {
      const double wanted = p_ * static_cast<double>(mass_of(t));
      double kept = 0;
      for (const int32_t e : top_of(t)) {
        choice.row(t)[e] = 1;
        kept += static_cast<double>(request.scores(t, e));
        if (p_ < 1.0 && kept >= wanted) break;
      }
    }
  }

 private:
  double p_;
};

}  // namespace

PolicyMaker top_p_policy() {
  return {.info = {.name = "topp",
                   .summary = "the fewest of a token's top-k with a share p of its mass",
                   .source = "Huang et al. 2024",
                   .parameters = {{"p", "0.9", "share of the top-k mass"},
                                  SelectionPolicy::weights_parameter()}},
          .make = make_policy<TopP>};
}

}  // namespace thermoe
