// Reading profile files: JSON whose every error names the file, the field and the remedy.
#pragma once

#include <filesystem>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

namespace thermoe::cost {

// An object of a profile file and where it stands in it ("shapes[2].loads[0]").
class ProfileNode {
 public:
  // Reads and parses a file whose "schema" must be `schema` and "version" 1. Throws IoError.
  static ProfileNode open(const std::filesystem::path& file, const std::string& schema);

  ProfileNode child(const std::string& key) const;
  std::vector<ProfileNode> children(const std::string& key) const;
  std::string text(const std::string& key) const;
  double number(const std::string& key) const;    // finite
  double positive(const std::string& key) const;  // finite, > 0
  int64_t count(const std::string& key) const;    // an integer >= 1
  std::vector<double> positives(const std::string& key) const;
  [[noreturn]] void fail(const std::string& problem) const;

 private:
  ProfileNode(std::string file, std::string place, nlohmann::json value)
      : file_(std::move(file)), place_(std::move(place)), value_(std::move(value)) {}
  const nlohmann::json& at(const std::string& key) const;
  std::string place_of(const std::string& key) const;

  std::string file_, place_;
  nlohmann::json value_;
};

}  // namespace thermoe::cost
