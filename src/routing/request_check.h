#pragma once

#include "thermoe/adaptive_router.h"

namespace thermoe {

// Throws InvalidArgument, naming token and expert, unless the request keeps the contract of
// RoutingPolicy::route.
void check_request(const RoutingRequest& request);

}  // namespace thermoe
