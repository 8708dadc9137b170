#include "policies.h"

#include <fmt/format.h>

#include "thermoe/error.h"

namespace thermoe::app {

std::unique_ptr<RoutingPolicy> make_policy(const std::string& name,
                                           const AdaptiveRouterSettings& settings) {
  if (name == "topk") return std::make_unique<TopKPolicy>();
  if (name == "adaptive") return std::make_unique<AdaptiveRouter>(settings);
  throw InvalidArgument(fmt::format("unknown policy '{}': known are topk and adaptive", name));
}

}  // namespace thermoe::app
