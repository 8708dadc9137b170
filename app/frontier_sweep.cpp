#include "frontier_sweep.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <optional>
#include <random>
#include <sstream>
#include <unordered_set>

#include "paths.h"
#include "read_number.h"
#include "thermoe/error.h"

namespace thermoe::app {
namespace {

constexpr size_t kMostSpecifications = 10'000;

struct Knob {
  std::string name;
  std::vector<std::string> values;
};

std::optional<double> finite_number(std::string_view text) {
  const std::optional<double> value = read_number(text);
  return value && std::isfinite(*value) ? value : std::nullopt;
}

[[noreturn]] void refuse_range(std::string_view text) {
  throw InvalidArgument(fmt::format(
      "'{}' is no range: give first..last or first..last..step, such as 2..7 or 0.1..0.5..0.1, "
      "with first <= last, a step above 0 and at most {} values",
      text, kMostSpecifications));
}

// Appends the value, or the values of a range.
void append_values(std::string_view text, std::vector<std::string>& values) {
  const size_t dots = text.find("..");
  if (dots == std::string_view::npos) {
    values.emplace_back(text);
    return;
  }
  const size_t more = text.find("..", dots + 2);
  const auto first = finite_number(text.substr(0, dots));
  const auto last = finite_number(text.substr(
      dots + 2, more == std::string_view::npos ? std::string_view::npos : more - dots - 2));
  const auto step =
      more == std::string_view::npos ? std::optional(1.0) : finite_number(text.substr(more + 2));
  if (!first || !last || !step || *step <= 0 || *first > *last) refuse_range(text);
  const double steps = std::floor((*last - *first) / *step + 1e-9);  // 0.1 * 3 is above 0.3
  if (steps >= static_cast<double>(kMostSpecifications)) refuse_range(text);
  for (double i = 0; i <= steps; ++i) values.push_back(fmt::format("{:.10g}", *first + i * *step));
}

std::vector<Knob> knobs_of(std::string_view specification, std::string_view text) {
  std::vector<Knob> knobs;
  while (true) {
    const std::string_view piece = text.substr(0, text.find(','));
    const size_t equals = piece.find('=');
    if (equals != std::string_view::npos) {
      knobs.push_back({std::string(piece.substr(0, equals)), {}});
      append_values(piece.substr(equals + 1), knobs.back().values);
    } else if (!knobs.empty() && !piece.empty()) {
      append_values(piece, knobs.back().values);
    } else {
      throw InvalidArgument(fmt::format(
          "'{}': after the colon come parameters with values, such as oea:k0=2..4", specification));
    }
    if (piece.size() == text.size()) return knobs;
    text.remove_prefix(piece.size() + 1);
  }
}

std::string trimmed(std::string line) {
  line.erase(std::min(line.find('#'), line.size()));
  const size_t first = line.find_first_not_of(" \t\r");
  if (first == std::string::npos) return "";
  return line.substr(first, line.find_last_not_of(" \t\r") - first + 1);
}

// Specifications, once each, top-k first.
class SpecificationList {
 public:
  SpecificationList() { add("topk", "the base of every comparison"); }
  void add(std::string_view line, const std::string& origin) {
    for (std::string& specification : expand_specification(line))
      if (seen_.insert(specification).second) sweep_.push_back({std::move(specification), origin});
    if (sweep_.size() > kMostSpecifications)
      throw InvalidArgument(
          fmt::format("{}: more than {} settings in all", origin, kMostSpecifications));
  }
  std::vector<SweptPolicy> take() { return std::move(sweep_); }

 private:
  std::unordered_set<std::string> seen_;
  std::vector<SweptPolicy> sweep_;
};

void route_random(RoutingPolicy& policy, int experts, int k, int batch, const ExpertLayout* layout,
                  int layer) {
  std::mt19937 random(1);
  std::vector<float> scores(static_cast<size_t>(batch) * static_cast<size_t>(experts));
  for (float& score : scores)
    score = static_cast<float>(random() % 1024 + 1) / (1024.0f * static_cast<float>(experts));
  RoutingRequest request;
  request.scores = ConstMatrix(scores.data(), batch, experts);
  request.k = k;
  request.layout = layout;
  request.layer = layer;
  RoutingPlan plan;
  policy.route(request, plan);
}

}  // namespace

std::string policy_name(std::string_view specification) {
  return std::string(specification.substr(0, specification.find(':')));
}

std::string series_name(std::string_view specification, std::string_view variants) {
  const bool raw = specification.find("weights=raw") != std::string_view::npos;
  return policy_name(specification) + (raw ? "+raw" : "") +
         (variants == "bf16" ? "" : "@" + std::string(variants));
}

bool needs_choice(std::string_view specification) {
  const std::string name = policy_name(specification);
  const auto known = known_policies();
  return std::any_of(known.begin(), known.end(), [&name](const PolicyInfo& info) {
    return info.name == name && info.needs_layout;
  });
}

std::vector<std::string> expand_specification(std::string_view text) {
  const size_t colon = text.find(':');
  if (colon == std::string_view::npos) return {std::string(text)};
  const std::vector<Knob> knobs = knobs_of(text, text.substr(colon + 1));
  std::vector<std::string> expanded{std::string(text.substr(0, colon + 1))};
  for (const Knob& knob : knobs) {
    if (expanded.size() * knob.values.size() > kMostSpecifications)
      throw InvalidArgument(
          fmt::format("'{}' stands for more than {} settings", text, kMostSpecifications));
    std::vector<std::string> longer;
    for (const std::string& begun : expanded)
      for (const std::string& value : knob.values)
        longer.push_back(
            fmt::format("{}{}{}={}", begun, begun.back() == ':' ? "" : ",", knob.name, value));
    expanded = std::move(longer);
  }
  return expanded;
}

std::vector<SweptPolicy> read_sweep(std::span<const std::string> arguments) {
  SpecificationList list;
  for (const std::string& argument : arguments) {
    std::error_code ignored;
    if (!std::filesystem::exists(argument, ignored)) {
      list.add(argument, "--policies");
      continue;
    }
    std::istringstream lines(read_file(argument));
    std::string line;
    for (int count = 1; std::getline(lines, line); ++count) {
      line = trimmed(std::move(line));
      if (line.empty()) continue;
      const std::string origin = fmt::format("{}: line {}", argument, count);
      try {
        list.add(line, origin);
      } catch (const InvalidArgument& error) {
        throw InvalidArgument(fmt::format("{}: {}", origin, error.what()));
      }
    }
  }
  return list.take();
}

void check_sweep(std::span<const SweptPolicy> sweep, int experts, int k, int batch,
                 const PolicyContext& context, const ExpertLayout* layout, int layer) {
  for (const SweptPolicy& swept : sweep) {
    try {
      const auto policy = make_routing_policy(swept.specification, context);
      route_random(*policy, experts, k, batch, layout, layer);
    } catch (const InvalidArgument& error) {
      throw InvalidArgument(
          fmt::format("{}: {}: {}", swept.origin, swept.specification, error.what()));
    }
  }
}

}  // namespace thermoe::app
