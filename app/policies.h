// Routing policies by name, for the command line.
#pragma once

#include <memory>
#include <string>

#include "thermoe/adaptive_router.h"

namespace thermoe::app {

// "topk" or "adaptive". Throws InvalidArgument listing the known names.
std::unique_ptr<RoutingPolicy> make_policy(const std::string& name,
                                           const AdaptiveRouterSettings& settings = {});

}  // namespace thermoe::app
