// A value inside a tokenizer.json that knows its place, so that errors can name it.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "model/json_file.h"

namespace thermoe {

// A view: the JSON and the path must outlive it. Every getter throws IoError naming the file and
// the place where the value is missing or of another type.
class JsonNode {
 public:
  JsonNode(const nlohmann::json& value, const std::string& path, std::string place)
      : value_(value), path_(path), place_(std::move(place)) {}

  const nlohmann::json& value() const { return value_; }
  const std::string& path() const { return path_; }
  [[noreturn]] void refuse(const std::string& problem) const;
  // "pre_tokenizer 'X' is not supported; supported: ..."
  [[noreturn]] void refuse_type(const std::string& type, std::string_view supported) const;

  // Absent or null: nullopt.
  std::optional<JsonNode> find(const char* key) const;
  JsonNode at(const char* key) const;
  std::vector<JsonNode> items(const char* key) const;
  std::string type() const { return at("type").string(); }

  std::string string() const;
  std::string character() const;  // a string of one code point
  bool boolean() const;
  int64_t integer(int64_t low, int64_t high) const;

  bool flag(const char* key, bool otherwise) const;
  bool has_text(const char* key) const;  // present and not ""

 private:
  void expect(bool right, const char* what) const;

  const nlohmann::json& value_;
  const std::string& path_;
  std::string place_;
};

}  // namespace thermoe
