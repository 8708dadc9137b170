// Where the tests' data stands.
#pragma once

#include <filesystem>
#include <string>

namespace thermoe::test {

inline std::filesystem::path source_path(const std::string& relative) {
  return std::filesystem::path(THERMOE_SOURCE_DIR) / relative;
}
inline std::filesystem::path h100_profile() { return source_path("data/profiles/h100-sxm.json"); }
inline std::filesystem::path h100_power() {
  return source_path("data/profiles/h100-sxm-power.json");
}

}  // namespace thermoe::test
