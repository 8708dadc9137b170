// The published test-time routing policies, as baselines, and every policy by name.
#pragma once

#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "thermoe/adaptive_router.h"
#include "thermoe/expert_calibration.h"

namespace thermoe {

struct PolicyParameter {
  std::string name, default_value, meaning;
};

struct PolicyInfo {
  std::string name;     // as in a specification
  std::string summary;  // one line
  std::string source;   // paper or "thermoe"
  std::vector<PolicyParameter> parameters;
  bool needs_layout = false;  // refuses requests without one: all it does is choose instances
};

// Every policy that make_routing_policy knows, by name.
std::span<const PolicyInfo> known_policies();

// What policies may need beside the scores. Must outlive the policy.
struct PolicyContext {
  const ExpertCalibration* calibration = nullptr;  // for sere and adaptive:utility=calibrated
  bool on_gpu =
      false;  // adaptive then climbs, as the GPU's routing kernel does, unless told not to
};

// A policy of its specification: "topk", "oea:k0=4", "xshare:budget=32",
// "adaptive:open=0.05,power=2". Throws InvalidArgument: an unknown name (listing the known ones),
// an unknown parameter (listing the policy's), a value that is no number or out of range, a
// calibration that is missing.
std::unique_ptr<RoutingPolicy> make_routing_policy(std::string_view specification,
                                                   const PolicyContext& context = {});

// What of a specification can be told to be wrong without a model: its policy's name and the names
// of its parameters. Throws InvalidArgument as make_routing_policy does.
void check_policy_specification(std::string_view specification);

}  // namespace thermoe
