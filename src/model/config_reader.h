// Typed, checked access to the keys of a configuration object.
#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>

namespace thermoe {

// Looks at `object` (which must outlive it); `prefix` stands before keys in messages
// ("rope_parameters."). A key that is null counts as absent, as it does for transformers. Every
// method throws IoError naming file, key, value and what is accepted.
class ConfigReader {
 public:
  ConfigReader(const nlohmann::json& object, std::string path, std::string prefix = "");

  // The value, or null where absent or null.
  const nlohmann::json* find(const char* key) const;
  bool holds_null(const char* key) const;  // given, and null
  int64_t integer(const char* key, int64_t fallback, int64_t low, int64_t high) const;
  double number(const char* key, double fallback) const;
  double positive(const char* key, double fallback) const;
  bool boolean(const char* key, bool fallback) const;
  std::string string(const char* key, const char* fallback) const;
  [[noreturn]] void fail(const std::string& problem) const;
  // "key is value: <accepted>", or "key is absent: ...".
  [[noreturn]] void refuse(const char* key, std::string_view accepted) const;

 private:
  const nlohmann::json& object_;
  std::string path_, prefix_;
};

// `value`, in [low, high]: true and written to `out`.
bool integer_in(const nlohmann::json& value, int64_t low, int64_t high, int64_t& out);

}  // namespace thermoe
