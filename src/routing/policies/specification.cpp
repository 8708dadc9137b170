#include "routing/policies/specification.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <cmath>
#include <optional>
#include <stdexcept>

#include "thermoe/error.h"

namespace thermoe {
namespace {

std::string names(const std::vector<PolicyParameter>& parameters) {
  std::string list;
  for (const PolicyParameter& parameter : parameters)
    list += (list.empty() ? "" : ", ") + parameter.name;
  return list.empty() ? "none" : list;
}

// The whole text as a number, or nothing.
template <typename Number>
std::optional<Number> parse(std::string_view text) {
  Number number{};
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number);
  if (error != std::errc() || end != text.data() + text.size()) return std::nullopt;
  return number;
}

}  // namespace

PolicyArguments::PolicyArguments(const PolicyInfo& info, std::string_view text) : info_(info) {
  for (const PolicyParameter& parameter : info.parameters)
    values_.push_back(parameter.default_value);
  std::vector<uint8_t> given(values_.size(), 0);
  while (!text.empty()) {
    const std::string_view pair = text.substr(0, text.find(','));
    const size_t equals = pair.find('=');
    if (equals == std::string_view::npos || equals == 0 || equals + 1 == pair.size() ||
        pair.size() + 1 == text.size())
      throw InvalidArgument(
          fmt::format("policy {}: '{}' is not key=value pairs joined by commas", info.name, text));
    const std::string_view key = pair.substr(0, equals);
    const auto known =
        std::find_if(info.parameters.begin(), info.parameters.end(),
                     [key](const PolicyParameter& parameter) { return parameter.name == key; });
    if (known == info.parameters.end())
      throw InvalidArgument(fmt::format("policy {} has no parameter '{}': it has {}", info.name,
                                        key, names(info.parameters)));
    const size_t index = static_cast<size_t>(known - info.parameters.begin());
    if (given[index] != 0)
      throw InvalidArgument(fmt::format("policy {}: {} is given twice", info.name, key));
    given[index] = 1;
    values_[index] = pair.substr(equals + 1);
    text.remove_prefix(std::min(text.size(), pair.size() + 1));
  }
}

double PolicyArguments::number(std::string_view key, double low, double high) const {
  const std::optional<double> number = parse<double>(value(key));
  if (!number || !std::isfinite(*number) || *number < low || *number > high)
    fail(key, high == std::numeric_limits<double>::max()
                  ? fmt::format("a number of {} or more", low)
                  : fmt::format("a number from {} to {}", low, high));
  return *number;
}

int PolicyArguments::integer(std::string_view key, int low, int high) const {
  const std::optional<int> number = parse<int>(value(key));
  if (!number || *number < low || *number > high)
    fail(key, high == std::numeric_limits<int>::max()
                  ? fmt::format("a whole number of {} or more", low)
                  : fmt::format("a whole number from {} to {}", low, high));
  return *number;
}

size_t PolicyArguments::choice(std::string_view key,
                               const std::vector<std::string_view>& choices) const {
  const auto found = std::find(choices.begin(), choices.end(), value(key));
  if (found == choices.end()) fail(key, fmt::format("one of {}", fmt::join(choices, ", ")));
  return static_cast<size_t>(found - choices.begin());
}

const std::string& PolicyArguments::value(std::string_view key) const {
  for (size_t i = 0; i < values_.size(); ++i)
    if (info_.parameters[i].name == key) return values_[i];
  throw std::logic_error(fmt::format("policy {} reads an unlisted {}", info_.name, key));
}

void PolicyArguments::fail(std::string_view key, std::string_view expected) const {
  throw InvalidArgument(
      fmt::format("policy {}: {} is '{}': it must be {}", info_.name, key, value(key), expected));
}

}  // namespace thermoe
