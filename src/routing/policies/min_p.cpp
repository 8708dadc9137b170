// minp: drops experts that are weak beside the token's best. Lu et al. 2024, "Not All Experts are
// Equal" (arXiv:2402.14800), section 3.3, skips Mixtral's second expert where its weight is below
// beta times the first's; min-p sampling (Nguyen et al. 2024, arXiv:2407.01082) has the same rule
// for any number.
// Implemented: those of a token's top-k whose score is at least p times its highest. p = 0 keeps
// all. Weights by the model's rule on the smaller set.
#include "routing/policies/makers.h"
#include "routing/policies/selection_policy.h"

namespace thermoe {
namespace {

class MinP : public SelectionPolicy {
 public:
  explicit MinP(const PolicyArguments& arguments)
      : SelectionPolicy("minp", arguments), p_(arguments.number("p", 0.0, 1.0)) {}

 protected:
  void choose(const RoutingRequest& request, Choice& choice) override {
    for (int t = 0; t < choice.tokens; ++t) {
      const double least = p_ * static_cast<double>(request.scores(t, top_of(t).front()));
      for (const int32_t e : top_of(t))
        if (static_cast<double>(request.scores(t, e)) >= least) choice.row(t)[e] = 1;
    }
  }

 private:
  double p_;
};

}  // namespace

PolicyMaker min_p_policy() {
  return {
      .info = {.name = "minp",
               .summary = "those of a token's top-k with a score of p times its highest or more",
               .source = "Lu et al. 2024",
               .parameters = {{"p", "0.1", "of the token's highest score"},
                              SelectionPolicy::weights_parameter()}},
      .make = make_policy<MinP>};
}

}  // namespace thermoe
