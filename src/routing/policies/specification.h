// The parts of "name:key=value,key=value", and its values in their ranges.
#pragma once

#include <limits>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "thermoe/routing_policies.h"

namespace thermoe {

// A policy's parameters: what the specification gave, else the defaults of its PolicyInfo. Every
// accessor throws InvalidArgument, naming policy, parameter and range, for a value that is not one.
class PolicyArguments {
 public:
  // Throws InvalidArgument for text that is not key=value pairs, an unknown key, a key given twice.
  PolicyArguments(const PolicyInfo& info, std::string_view text);

  // A finite number of [low, high].
  double number(std::string_view key, double low,
                double high = std::numeric_limits<double>::max()) const;
  int integer(std::string_view key, int low, int high = std::numeric_limits<int>::max()) const;
  // One of `choices`; the index.
  size_t choice(std::string_view key, const std::vector<std::string_view>& choices) const;
  // Whether the parameter has a value at all: given, or by default (an empty default is none).
  bool has(std::string_view key) const { return !value(key).empty(); }

 private:
  const std::string& value(std::string_view key) const;
  [[noreturn]] void fail(std::string_view key, std::string_view expected) const;

  const PolicyInfo& info_;
  std::vector<std::string> values_;  // in the order of info_.parameters
};

// One policy of the registry: what it is and how it is made. Each file under policies/ defines one
// or more; registry.cpp lists them.
struct PolicyMaker {
  PolicyInfo info;
  std::unique_ptr<RoutingPolicy> (*make)(const PolicyArguments& arguments,
                                         const PolicyContext& context);
};

// For policies that need nothing of the context.
template <typename Policy>
std::unique_ptr<RoutingPolicy> make_policy(const PolicyArguments& arguments, const PolicyContext&) {
  return std::make_unique<Policy>(arguments);
}

}  // namespace thermoe
