#include "model/config_reader.h"

#include <fmt/format.h>

#include <cmath>
#include <limits>
#include <utility>

#include "model/json_file.h"
#include "thermoe/error.h"

namespace thermoe {

using nlohmann::json;

bool integer_in(const json& value, int64_t low, int64_t high, int64_t& out) {
  if (!value.is_number_integer()) return false;
  // Unsigned values beyond int64 would wrap.
  if (value.is_number_unsigned() &&
      value.get<uint64_t>() > static_cast<uint64_t>(std::numeric_limits<int64_t>::max())) {
    return false;
  }
  const auto number = value.get<int64_t>();
  if (number < low || number > high) return false;
  out = number;
  return true;
}

ConfigReader::ConfigReader(const json& object, std::string path, std::string prefix)
    : object_(object), path_(std::move(path)), prefix_(std::move(prefix)) {}

const json* ConfigReader::find(const char* key) const {
  const auto found = object_.find(key);
  return found == object_.end() || found->is_null() ? nullptr : &*found;
}

bool ConfigReader::holds_null(const char* key) const {
  const auto found = object_.find(key);
  return found != object_.end() && found->is_null();
}

int64_t ConfigReader::integer(const char* key, int64_t fallback, int64_t low, int64_t high) const {
  const json* value = find(key);
  if (value == nullptr) return fallback;
  int64_t out = 0;
  if (!integer_in(*value, low, high, out)) {
    refuse(key, fmt::format("an integer from {} to {} is expected", low, high));
  }
  return out;
}

double ConfigReader::number(const char* key, double fallback) const {
  const json* value = find(key);
  if (value == nullptr) return fallback;
  if (!value->is_number()) refuse(key, "a number is expected");
  return value->get<double>();  // the parser refuses what no double holds
}

double ConfigReader::positive(const char* key, double fallback) const {
  const double out = number(key, fallback);
  if (!(out > 0)) refuse(key, "a number above 0 is expected");
  return out;
}

bool ConfigReader::boolean(const char* key, bool fallback) const {
  const json* value = find(key);
  if (value == nullptr) return fallback;
  if (!value->is_boolean()) refuse(key, "true or false is expected");
  return value->get<bool>();
}

std::string ConfigReader::string(const char* key, const char* fallback) const {
  const json* value = find(key);
  if (value == nullptr) return fallback;
  if (!value->is_string()) refuse(key, "a string is expected");
  return value->get<std::string>();
}

void ConfigReader::fail(const std::string& problem) const { throw IoError(path_, problem); }

void ConfigReader::refuse(const char* key, std::string_view accepted) const {
  const json* value = find(key);
  const std::string text = value == nullptr ? "absent" : printable(value->dump());
  fail(fmt::format("{}{} is {}: {}", prefix_, key, text, accepted));
}

}  // namespace thermoe
