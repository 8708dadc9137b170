// topk: the model's own routing. Shazeer et al. 2017, "Outrageously large neural networks: the
// sparsely-gated mixture-of-experts layer", section 2.1.
#include "routing/policies/makers.h"

namespace thermoe {

PolicyMaker top_k_policy() {
  return {
      .info = {.name = "topk",
               .summary = "the model's own routing: the k highest scores",
               .source = "Shazeer et al. 2017",
               .parameters = {}},
      .make = [](const PolicyArguments&, const PolicyContext&) -> std::unique_ptr<RoutingPolicy> {
        return std::make_unique<TopKPolicy>();
      }};
}

}  // namespace thermoe
