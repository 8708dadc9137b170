#include <algorithm>

#include "thermoe/routing_plan.h"

namespace thermoe {

void pack(RoutingPlan& plan, int count) {
  plan.offsets.assign(static_cast<size_t>(count) + 1, 0);
  size_t used = 0;
  for (const int32_t instance : plan.instances)
    if (instance >= 0) ++plan.offsets[static_cast<size_t>(instance) + 1], ++used;
  plan.packed.resize(used);
  for (size_t i = 0; i < static_cast<size_t>(count); ++i) plan.offsets[i + 1] += plan.offsets[i];
  // offsets[i] walks to the start of i + 1 while filling, then is shifted back.
  for (size_t pair = 0; pair < plan.instances.size(); ++pair)
    if (const int32_t instance = plan.instances[pair]; instance >= 0)
      plan.packed[static_cast<size_t>(plan.offsets[static_cast<size_t>(instance)]++)] =
          static_cast<int32_t>(pair);
  std::copy_backward(plan.offsets.begin(), plan.offsets.end() - 1, plan.offsets.end());
  plan.offsets[0] = 0;
}

}  // namespace thermoe
