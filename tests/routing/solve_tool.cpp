// For comparison with other solvers (tests/python/test_routing_program.py).
//   routing_solve_tool
// Reads one instance per line of stdin, a JSON object (arrays in the order of RoutingRequest):
//   scores [T][E], k; optional: min_k, layer, renormalize, prices {open, slope, device_open,
//   device_slope, device_base}, layout {experts, devices, errors [variants], instances
//   [[expert, variant, device]], capacity}, goal {kind, limit}, settings {power, scale, open_price,
//   slope_price, min_k, dual_iterations, dual_gap_frac, warm_start, goal}
// and answers each with one line: the plan, its report and the seconds that routing took, or
// {"error": ...}. Instances with the same settings go to the same router, which may start from what
// it found before.
#include <chrono>
#include <cstdio>
#include <iostream>
#include <map>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <utility>
#include <vector>

#include "thermoe/adaptive_router.h"
#include "thermoe/error.h"

namespace {

using nlohmann::json;
using thermoe::RoutingGoal;

struct Scores {
  std::vector<float> values;
  thermoe::ConstMatrix view;
};

Scores scores_of(const json& rows) {
  Scores scores;
  for (const json& row : rows)
    for (const json& value : row) scores.values.push_back(value.get<float>());
  const auto count = static_cast<int64_t>(rows.size());
  const int64_t experts = count > 0 ? static_cast<int64_t>(rows[0].size()) : 0;
  if (static_cast<int64_t>(scores.values.size()) != count * experts)
    throw thermoe::InvalidArgument("scores: rows of different lengths");
  scores.view = {scores.values.data(), count, experts};
  return scores;
}

std::vector<float> floats_of(const json& object, const char* key) {
  return object.value(key, std::vector<float>{});
}

thermoe::ExpertPrices prices_of(const json& object) {
  return {.open = floats_of(object, "open"),
          .slope = floats_of(object, "slope"),
          .device_open = floats_of(object, "device_open"),
          .device_slope = floats_of(object, "device_slope"),
          .device_base = floats_of(object, "device_base")};
}

thermoe::ExpertLayout layout_of(const json& object) {
  std::vector<thermoe::ExpertVariant> variants;
  for (const json& error : object.at("errors"))
    variants.push_back({.name = std::to_string(variants.size()), .error_frac = error.get<float>()});
  std::vector<thermoe::ExpertInstance> instances;
  for (const json& ids : object.at("instances"))
    instances.push_back({.expert = ids.at(0), .variant = ids.at(1), .device = ids.at(2)});
  auto layout = thermoe::ExpertLayout::of_instances(object.at("experts"), object.at("devices"),
                                                    std::move(variants), std::move(instances));
  layout.capacity = object.value("capacity", std::vector<int32_t>{});
  return layout;
}

RoutingGoal goal_of(const json& object) {
  const std::string kind = object.at("kind");
  RoutingGoal goal{.kind = RoutingGoal::Kind::kPrices, .limit = object.value("limit", 0.0)};
  if (kind == "least_cost")
    goal.kind = RoutingGoal::Kind::kLeastCost;
  else if (kind == "best_quality")
    goal.kind = RoutingGoal::Kind::kBestQuality;
  else if (kind != "prices")
    throw thermoe::InvalidArgument("goal: unknown kind " + kind);
  return goal;
}

thermoe::AdaptiveRouterSettings settings_of(const json& object) {
  thermoe::AdaptiveRouterSettings settings;
  settings.utility.power = object.value("power", settings.utility.power);
  settings.utility.scale = object.value("scale", settings.utility.scale);
  settings.open_price = object.value("open_price", settings.open_price);
  settings.slope_price = object.value("slope_price", settings.slope_price);
  settings.min_k = object.value("min_k", settings.min_k);
  settings.dual_iterations = object.value("dual_iterations", settings.dual_iterations);
  settings.dual_gap_frac = object.value("dual_gap_frac", settings.dual_gap_frac);
  settings.warm_start = object.value("warm_start", settings.warm_start);
  if (object.contains("goal")) settings.goal = goal_of(object.at("goal"));
  return settings;
}

json report_of(const thermoe::RoutingReport& report) {
  return {{"status", report.status == thermoe::RoutingStatus::kSolved ? "solved" : "infeasible"},
          {"objective", report.objective},
          {"bound", report.bound},
          {"gap_frac", report.gap_frac},
          {"utility", report.utility},
          {"cost", report.cost},
          {"limit_excess", report.limit_excess},
          {"gate_mass_frac", report.gate_mass_frac},
          {"distinct_experts", report.distinct_experts},
          {"distinct_instances", report.distinct_instances},
          {"top_k_distinct_experts", report.top_k_distinct_experts},
          {"changed_tokens", report.changed_tokens}};
}

json plan_of(const thermoe::RoutingPlan& plan) {
  return {{"k", plan.k},
          {"ids", plan.ids},
          {"instances", plan.instances},
          {"weights", plan.weights},
          {"changed", plan.changed},
          {"offsets", plan.offsets},
          {"packed", plan.packed},
          {"report", report_of(plan.report)}};
}

// Routers by their settings: as in a program, one lives on from batch to batch.
class Solver {
 public:
  json solve(const json& instance) {
    const Scores scores = scores_of(instance.at("scores"));
    thermoe::ExpertPrices prices;
    thermoe::ExpertLayout layout;
    thermoe::RoutingRequest request;
    request.scores = scores.view;
    request.k = instance.at("k");
    request.min_k = instance.value("min_k", 0);
    request.layer = instance.value("layer", 0);
    request.renormalize = instance.value("renormalize", true);
    if (instance.contains("prices")) {
      prices = prices_of(instance.at("prices"));
      request.prices = &prices;
    }
    if (instance.contains("layout")) {
      layout = layout_of(instance.at("layout"));
      request.layout = &layout;
    }
    if (instance.contains("goal")) request.goal = goal_of(instance.at("goal"));
    thermoe::AdaptiveRouter& router = router_of(instance.value("settings", json::object()));
    const auto start = std::chrono::steady_clock::now();
    router.route(request, plan_);
    const std::chrono::duration<double> taken = std::chrono::steady_clock::now() - start;
    json answer = plan_of(plan_);
    answer["seconds"] = taken.count();
    return answer;
  }

 private:
  thermoe::AdaptiveRouter& router_of(const json& settings) {
    auto& router = routers_[settings.dump()];
    if (!router) router = std::make_unique<thermoe::AdaptiveRouter>(settings_of(settings));
    return *router;
  }

  std::map<std::string, std::unique_ptr<thermoe::AdaptiveRouter>> routers_;
  thermoe::RoutingPlan plan_;
};

}  // namespace

int main() {
  std::ios::sync_with_stdio(false);
  Solver solver;
  for (std::string line; std::getline(std::cin, line);) {
    json answer;
    try {
      answer = solver.solve(json::parse(line));
    } catch (const std::exception& e) {
      answer = {{"error", e.what()}};
    }
    std::cout << answer.dump() << '\n';
  }
  return std::cout.flush() ? 0 : 1;
}
