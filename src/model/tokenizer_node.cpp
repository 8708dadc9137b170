#include "model/tokenizer_node.h"

#include <fmt/format.h>

#include "model/tokenizer_text.h"
#include "thermoe/error.h"

namespace thermoe {

void JsonNode::refuse(const std::string& problem) const {
  throw IoError(path_, place_ + " " + problem);
}

void JsonNode::refuse_type(const std::string& type, std::string_view supported) const {
  refuse(fmt::format("'{}' is not supported; supported: {}", printable(type), supported));
}

void JsonNode::expect(bool right, const char* what) const {
  if (!right)
    refuse(fmt::format("is {}, not {}: download the file again", value_.type_name(), what));
}

std::optional<JsonNode> JsonNode::find(const char* key) const {
  expect(value_.is_object(), "an object");
  const auto found = value_.find(key);
  if (found == value_.end() || found->is_null()) return std::nullopt;
  return JsonNode(*found, path_, place_.empty() ? key : place_ + "." + key);
}

JsonNode JsonNode::at(const char* key) const {
  const auto found = find(key);
  if (!found) refuse(fmt::format("has no '{}': download the file again", key));
  return *found;
}

std::vector<JsonNode> JsonNode::items(const char* key) const {
  const JsonNode list = at(key);
  list.expect(list.value_.is_array(), "a list");
  std::vector<JsonNode> out;
  for (const auto& item : list.value_) {
    out.emplace_back(item, path_, fmt::format("{}[{}]", list.place_, out.size()));
  }
  return out;
}

std::string JsonNode::string() const {
  expect(value_.is_string(), "a string");
  return value_.get<std::string>();
}

std::string JsonNode::character() const {
  std::string text = string();
  if (text.empty() || utf8_step(text, 0).bytes != text.size()) refuse("is not one character");
  return text;
}

bool JsonNode::boolean() const {
  expect(value_.is_boolean(), "true or false");
  return value_.get<bool>();
}

int64_t JsonNode::integer(int64_t low, int64_t high) const {
  expect(value_.is_number_integer(), "an integer");
  // An unsigned value beyond int64 would wrap.
  const bool huge = value_.is_number_unsigned() && value_.get<uint64_t>() > uint64_t{INT64_MAX};
  const int64_t number = huge ? INT64_MAX : value_.get<int64_t>();
  if (number < low || number > high) {
    refuse(fmt::format("is {}, outside {} to {}", value_.dump(), low, high));
  }
  return number;
}

bool JsonNode::flag(const char* key, bool otherwise) const {
  const auto found = find(key);
  return found ? found->boolean() : otherwise;
}

bool JsonNode::has_text(const char* key) const {
  const auto found = find(key);
  return found && !found->string().empty();
}

}  // namespace thermoe
