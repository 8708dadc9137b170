#include <fmt/format.h>

#include <algorithm>

#include "routing/policies/makers.h"
#include "thermoe/error.h"

namespace thermoe {
namespace {

const std::vector<PolicyMaker>& makers() {
  static const std::vector<PolicyMaker> all = [] {
    std::vector<PolicyMaker> list{
        adaptive_policy(),  cache_prior_policy(), capacity_drop_policy(), capacity_expand_policy(),
        eplb_policy(),      fewer_k_policy(),     lynx_policy(),          metro_policy(),
        min_p_policy(),     oea_policy(),         sere_policy(),          static_mix_policy(),
        threshold_policy(), tile_round_policy(),  top_k_policy(),         top_p_policy(),
        xshare_policy()};
    std::sort(list.begin(), list.end(),
              [](const PolicyMaker& a, const PolicyMaker& b) { return a.info.name < b.info.name; });
    return list;
  }();
  return all;
}

struct Specification {
  const PolicyMaker& maker;
  std::string_view arguments;
};

Specification read_specification(std::string_view specification) {
  const size_t colon = specification.find(':');
  const std::string_view name = specification.substr(0, colon);
  std::string known;
  for (const PolicyMaker& maker : makers()) {
    if (maker.info.name != name) {
      known += (known.empty() ? "" : ", ") + maker.info.name;
      continue;
    }
    if (colon == std::string_view::npos) return {maker, {}};
    if (colon + 1 == specification.size())
      throw InvalidArgument(
          fmt::format("policy {}: parameters must follow the colon, as key=value", name));
    return {maker, specification.substr(colon + 1)};
  }
  throw InvalidArgument(fmt::format("unknown policy '{}': known are {}", name, known));
}

}  // namespace

std::span<const PolicyInfo> known_policies() {
  static const std::vector<PolicyInfo> infos = [] {
    std::vector<PolicyInfo> list;
    for (const PolicyMaker& maker : makers()) list.push_back(maker.info);
    return list;
  }();
  return infos;
}

void check_policy_specification(std::string_view specification) {
  const Specification parts = read_specification(specification);
  const PolicyArguments arguments(parts.maker.info, parts.arguments);
}

std::unique_ptr<RoutingPolicy> make_routing_policy(std::string_view specification,
                                                   const PolicyContext& context) {
  const Specification parts = read_specification(specification);
  return parts.maker.make(PolicyArguments(parts.maker.info, parts.arguments), context);
}

}  // namespace thermoe
