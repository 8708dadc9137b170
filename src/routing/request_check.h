#pragma once

#include "thermoe/routing_policy.h"

namespace thermoe {

// Throws InvalidArgument, naming the culprit, unless the request keeps the contract of
// RoutingPolicy::route.
void check_request(const RoutingRequest& request);

// Throws InvalidArgument where the goal's limit is out of range.
void check_goal(const RoutingGoal& goal);

}  // namespace thermoe
