#include <algorithm>

#include "thermoe/routing_plan.h"

namespace thermoe {

void pack(RoutingPlan& plan) {
  plan.offsets.assign(static_cast<size_t>(plan.experts) + 1, 0);
  plan.packed.resize(plan.ids.size());
  for (const int32_t id : plan.ids) ++plan.offsets[static_cast<size_t>(id) + 1];
  for (size_t e = 0; e < static_cast<size_t>(plan.experts); ++e)
    plan.offsets[e + 1] += plan.offsets[e];
  // offsets[e] walks to the start of e + 1 while filling, then is shifted back.
  for (size_t pair = 0; pair < plan.ids.size(); ++pair)
    plan.packed[static_cast<size_t>(plan.offsets[static_cast<size_t>(plan.ids[pair])]++)] =
        static_cast<int32_t>(pair);
  std::copy_backward(plan.offsets.begin(), plan.offsets.end() - 1, plan.offsets.end());
  plan.offsets[0] = 0;
}

}  // namespace thermoe
