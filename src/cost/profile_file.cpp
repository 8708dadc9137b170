#include "cost/profile_file.h"

#include <fmt/format.h>

#include <cmath>
#include <fstream>
#include <limits>

#include "thermoe/error.h"

namespace thermoe::cost {

ProfileNode ProfileNode::open(const std::filesystem::path& file, const std::string& schema,
                              const FileKind& kind) {
  std::ifstream stream(file, std::ios::binary);
  if (!stream) throw IoError(file.string(), fmt::format("can't be read; {}", kind.remedy));
  nlohmann::json value;
  try {
    value = nlohmann::json::parse(stream);
  } catch (const nlohmann::json::parse_error& error) {
    throw IoError(file.string(), fmt::format("is no JSON (byte {}); {}", error.byte, kind.remedy));
  } catch (const nlohmann::json::exception&) {
    throw IoError(file.string(), fmt::format("holds a number that no double can; {}", kind.remedy));
  }
  if (!value.is_object())
    throw IoError(file.string(), fmt::format("is no {}; {}", kind.name, kind.remedy));
  ProfileNode node(kind, file.string(), "", std::move(value));
  const std::string found = node.text("schema");
  if (found != schema) node.fail(fmt::format("schema is \"{}\", not \"{}\"", found, schema));
  if (node.count("version") != 1)
    node.fail(fmt::format("version {} is not known, only 1", node.count("version")));
  return node;
}

void ProfileNode::fail(const std::string& problem) const {
  const std::string where = place_.empty() ? problem : place_ + ": " + problem;
  throw IoError(file_, fmt::format("{}; {}", where, kind_.remedy));
}

std::string ProfileNode::place_of(const std::string& key) const {
  return place_.empty() ? key : place_ + "." + key;
}

const nlohmann::json& ProfileNode::at(const std::string& key) const {
  const auto found = value_.find(key);
  if (found == value_.end()) fail(fmt::format("field \"{}\" is missing", key));
  return *found;
}

ProfileNode ProfileNode::child(const std::string& key) const {
  if (!at(key).is_object()) fail(fmt::format("field \"{}\" is no object", key));
  return nested(place_of(key), at(key));
}

std::vector<ProfileNode> ProfileNode::children(const std::string& key) const {
  const nlohmann::json& list = at(key);
  if (!list.is_array() || list.empty()) fail(fmt::format("field \"{}\" is no filled list", key));
  std::vector<ProfileNode> nodes;
  for (size_t i = 0; i < list.size(); ++i) {
    if (!list[i].is_object()) fail(fmt::format("{}[{}] is no object", key, i));
    nodes.push_back(nested(fmt::format("{}[{}]", place_of(key), i), list[i]));
  }
  return nodes;
}

std::string ProfileNode::text(const std::string& key) const {
  if (!at(key).is_string()) fail(fmt::format("field \"{}\" is no text", key));
  return at(key).get<std::string>();
}

double ProfileNode::number(const std::string& key) const {
  if (!at(key).is_number()) fail(fmt::format("field \"{}\" is no number", key));
  const double value = at(key).get<double>();
  if (!std::isfinite(value)) fail(fmt::format("field \"{}\" is not finite", key));
  return value;
}

double ProfileNode::positive(const std::string& key) const {
  const double value = number(key);
  if (value <= 0) fail(fmt::format("field \"{}\" is {}, not positive", key, value));
  return value;
}

int64_t ProfileNode::count(const std::string& key) const {
  const nlohmann::json& value = at(key);
  // 2^31 bounds what a count can be, so that products of two stay exact.
  if (!value.is_number_integer() || value.get<double>() < 1 || value.get<double>() > 2147483647.0)
    fail(fmt::format("field \"{}\" is no count", key));
  return value.get<int64_t>();
}

int64_t ProfileNode::index(const std::string& key, int64_t size) const {
  const nlohmann::json& value = at(key);
  if (!value.is_number_integer() || value.get<double>() < 0 ||
      value.get<double>() >= static_cast<double>(size))
    fail(fmt::format("field \"{}\" is no integer in [0, {})", key, size));
  return value.get<int64_t>();
}

std::vector<double> ProfileNode::positives(const std::string& key) const {
  std::vector<double> values = positives_or_missing(key);
  for (size_t i = 0; i < values.size(); ++i)
    if (std::isnan(values[i])) fail(fmt::format("{}[{}] is no positive number", key, i));
  return values;
}

std::map<std::string, std::string> ProfileNode::texts(const std::string& key) const {
  const nlohmann::json& object = at(key);
  if (!object.is_object()) fail(fmt::format("field \"{}\" is no object", key));
  std::map<std::string, std::string> texts;
  for (const auto& [name, value] : object.items())
    if (value.is_string()) texts[name] = value.get<std::string>();
  return texts;
}

std::vector<double> ProfileNode::positives_or_missing(const std::string& key) const {
  const nlohmann::json& list = at(key);
  if (!list.is_array() || list.empty()) fail(fmt::format("field \"{}\" is no filled list", key));
  std::vector<double> values;
  for (const nlohmann::json& entry : list) {
    if (entry.is_null()) {
      values.push_back(std::numeric_limits<double>::quiet_NaN());
      continue;
    }
    const double value = entry.is_number() ? entry.get<double>() : -1.0;
    if (!std::isfinite(value) || value <= 0)
      fail(fmt::format("{}[{}] is no positive number", key, values.size()));
    values.push_back(value);
  }
  return values;
}

std::vector<double> ProfileNode::pairs(const std::string& key) const {
  const nlohmann::json& list = at(key);
  if (!list.is_array() || list.empty()) fail(fmt::format("field \"{}\" is no filled list", key));
  constexpr double kLargest = 1e300;
  std::vector<double> values;
  for (size_t i = 0; i < list.size(); ++i) {
    append_numbers(list[i], fmt::format("{}[{}]", key, i), 2, -kLargest, kLargest, values);
    if (values[values.size() - 1] < values[values.size() - 2])
      fail(fmt::format("{}[{}] falls", key, i));
  }
  return values;
}

void ProfileNode::append_numbers(const nlohmann::json& list, const std::string& name, int64_t size,
                                 double low, double high, std::vector<double>& values) const {
  if (!list.is_array()) fail(fmt::format("field \"{}\" is no list", name));
  if (static_cast<int64_t>(list.size()) != size)
    fail(fmt::format("field \"{}\" holds {} values, not {}", name, list.size(), size));
  for (size_t i = 0; i < list.size(); ++i) {
    if (!list[i].is_number()) fail(fmt::format("{}[{}] is no number", name, i));
    const double value = list[i].get<double>();
    if (!(value >= low && value <= high))
      fail(fmt::format("{}[{}] is {}, outside [{}, {}]", name, i, value, low, high));
    values.push_back(value);
  }
}

std::vector<double> ProfileNode::numbers(const std::string& key, int64_t size, double low,
                                         double high) const {
  std::vector<double> values;
  append_numbers(at(key), key, size, low, high, values);
  return values;
}

std::vector<double> ProfileNode::matrix(const std::string& key, int64_t rows, int64_t cols,
                                        double low, double high) const {
  const nlohmann::json& list = at(key);
  if (!list.is_array()) fail(fmt::format("field \"{}\" is no list", key));
  if (static_cast<int64_t>(list.size()) != rows)
    fail(fmt::format("field \"{}\" holds {} rows, not {}", key, list.size(), rows));
  std::vector<double> values;
  for (size_t r = 0; r < list.size(); ++r)
    append_numbers(list[r], fmt::format("{}[{}]", key, r), cols, low, high, values);
  return values;
}

}  // namespace thermoe::cost
