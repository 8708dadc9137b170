// fewer: each token's first k' of its top-k. The plain reference point of every method that saves
// experts; "pruned" in Oncescu et al. 2025 (arXiv:2511.02237, section 4).
// Implemented: k' = min(k, the model's own k); weights by the model's rule on the smaller set.
#include "routing/policies/makers.h"
#include "routing/policies/selection_policy.h"

namespace thermoe {
namespace {

class FewerK : public SelectionPolicy {
 public:
  explicit FewerK(const PolicyArguments& arguments)
      : SelectionPolicy("fewer", arguments), k_(arguments.integer("k", 1)) {}

 protected:
  void choose(const RoutingRequest& request, Choice& choice) override {
    const size_t count = static_cast<size_t>(std::min(k_, request.k));
    for (int t = 0; t < choice.tokens; ++t)
      for (const int32_t e : top_of(t).first(count)) choice.row(t)[e] = 1;
  }

 private:
  int k_;
};

}  // namespace

PolicyMaker fewer_k_policy() {
  return {.info = {.name = "fewer",
                   .summary = "the first k of each token's top-k",
                   .source = "common",
                   .parameters = {{"k", "6", "experts of a token, at most the model's own"},
                                  SelectionPolicy::weights_parameter()}},
          .make = make_policy<FewerK>};
}

}  // namespace thermoe
