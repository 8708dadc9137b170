#include "cost/profile_file.h"

#include <fmt/format.h>

#include <cmath>
#include <fstream>

#include "thermoe/error.h"

namespace thermoe::cost {
namespace {

constexpr const char* kRemedy =
    "use a file of data/profiles or make one with scripts/make_profiles.py";

}  // namespace

ProfileNode ProfileNode::open(const std::filesystem::path& file, const std::string& schema) {
  std::ifstream stream(file, std::ios::binary);
  if (!stream) throw IoError(file.string(), fmt::format("can't be read; {}", kRemedy));
  nlohmann::json value;
  try {
    value = nlohmann::json::parse(stream);
  } catch (const nlohmann::json::parse_error& error) {
    throw IoError(file.string(), fmt::format("is no JSON (byte {}); {}", error.byte, kRemedy));
  }
  if (!value.is_object()) throw IoError(file.string(), fmt::format("is no profile; {}", kRemedy));
  ProfileNode node(file.string(), "", std::move(value));
  const std::string found = node.text("schema");
  if (found != schema) node.fail(fmt::format("schema is \"{}\", not \"{}\"", found, schema));
  if (node.count("version") != 1)
    node.fail(fmt::format("version {} is not known, only 1", node.count("version")));
  return node;
}

void ProfileNode::fail(const std::string& problem) const {
  const std::string where = place_.empty() ? problem : place_ + ": " + problem;
  throw IoError(file_, fmt::format("{}; {}", where, kRemedy));
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
  return ProfileNode(file_, place_of(key), at(key));
}

std::vector<ProfileNode> ProfileNode::children(const std::string& key) const {
  const nlohmann::json& list = at(key);
  if (!list.is_array() || list.empty()) fail(fmt::format("field \"{}\" is no filled list", key));
  std::vector<ProfileNode> nodes;
  for (size_t i = 0; i < list.size(); ++i) {
    if (!list[i].is_object()) fail(fmt::format("{}[{}] is no object", key, i));
    nodes.push_back(ProfileNode(file_, fmt::format("{}[{}]", place_of(key), i), list[i]));
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

std::vector<double> ProfileNode::positives(const std::string& key) const {
  const nlohmann::json& list = at(key);
  if (!list.is_array() || list.empty()) fail(fmt::format("field \"{}\" is no filled list", key));
  std::vector<double> values;
  for (const nlohmann::json& entry : list) {
    const double value = entry.is_number() ? entry.get<double>() : -1.0;
    if (!std::isfinite(value) || value <= 0)
      fail(fmt::format("{}[{}] is no positive number", key, values.size()));
    values.push_back(value);
  }
  return values;
}

}  // namespace thermoe::cost
