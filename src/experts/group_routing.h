// Routing a batch whose rows route in groups, by any policy.
#pragma once

#include <span>

#include "thermoe/moe_layer.h"
#include "thermoe/routing_policy.h"

namespace thermoe {

struct GroupRouting {
  RoutingPolicy& policy;
  const ExpertPrices* prices = nullptr;
  const ExpertLayout* layout = nullptr;
  PlanObserver* observer = nullptr;
};

// Routes each group by its scores [N, E] and joins the plans to `all` (not packed, no report);
// `group_plan` is scratch. Throws InvalidArgument as the policy does, and where it makes no plan.
void route_groups(ConstMatrix scores, std::span<const RowGroup> groups, const MoeSettings& settings,
                  const GroupRouting& routing, RoutingPlan& group_plan, RoutingPlan& all);

}  // namespace thermoe
