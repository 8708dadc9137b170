// Reading profiles and files like them: JSON whose every error names the file, the field and the
// remedy.
#pragma once

#include <filesystem>
#include <map>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

namespace thermoe::cost {

// What a file claims to be, and what to do where it isn't. Texts must outlive the nodes.
struct FileKind {
  const char* name = "profile";
  const char* remedy = "use a file of data/profiles or make one with thermoe fit";
};

// An object of a profile file and where it stands in it ("shapes[2].loads[0]").
class ProfileNode {
 public:
  // Reads and parses a file whose "schema" must be `schema` and "version" 1. Throws IoError.
  static ProfileNode open(const std::filesystem::path& file, const std::string& schema,
                          const FileKind& kind = {});

  bool has(const std::string& key) const { return value_.contains(key); }
  ProfileNode child(const std::string& key) const;
  std::vector<ProfileNode> children(const std::string& key) const;
  std::string text(const std::string& key) const;
  double number(const std::string& key) const;                // finite
  double positive(const std::string& key) const;              // finite, > 0
  int64_t count(const std::string& key) const;                // an integer >= 1
  int64_t index(const std::string& key, int64_t size) const;  // an integer in [0, size)
  std::vector<double> positives(const std::string& key) const;
  // A filled list of positive numbers and nulls; a null gives NaN.
  std::vector<double> positives_or_missing(const std::string& key) const;
  // An object of texts; other members are left out.
  std::map<std::string, std::string> texts(const std::string& key) const;
  // A filled list of pairs of finite numbers, the second not below the first: one after the other.
  std::vector<double> pairs(const std::string& key) const;
  // `size` numbers, finite and in [low, high].
  std::vector<double> numbers(const std::string& key, int64_t size, double low, double high) const;
  // A list of `rows` lists of `cols` such numbers, row after row.
  std::vector<double> matrix(const std::string& key, int64_t rows, int64_t cols, double low,
                             double high) const;
  [[noreturn]] void fail(const std::string& problem) const;

 private:
  ProfileNode(const FileKind& kind, std::string file, std::string place, nlohmann::json value)
      : kind_(kind), file_(std::move(file)), place_(std::move(place)), value_(std::move(value)) {}
  ProfileNode nested(const std::string& place, const nlohmann::json& value) const {
    return ProfileNode(kind_, file_, place, value);
  }
  void append_numbers(const nlohmann::json& list, const std::string& name, int64_t size, double low,
                      double high, std::vector<double>& values) const;
  const nlohmann::json& at(const std::string& key) const;
  std::string place_of(const std::string& key) const;

  FileKind kind_;
  std::string file_, place_;
  nlohmann::json value_;
};

}  // namespace thermoe::cost
