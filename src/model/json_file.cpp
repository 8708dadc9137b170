#include "model/json_file.h"

#include <fmt/format.h>

#include <fstream>
#include <string>
#include <system_error>
#include <unordered_set>
#include <vector>

#include "thermoe/error.h"

namespace thermoe {
namespace {

using nlohmann::json;

constexpr int kMaxDepth = 64;  // published files nest to about 6
constexpr uint64_t kMaxJsonBytes = 256'000'000;

// Sees each parse event; refuses deep nesting and repeated keys.
class StrictEvents {
 public:
  explicit StrictEvents(const std::string& path) : path_(path) {}

  bool operator()(int depth, json::parse_event_t event, const json& value) {
    switch (event) {
      case json::parse_event_t::object_start:
        keys_.emplace_back();
        check_depth(depth);
        break;
      case json::parse_event_t::array_start:
        check_depth(depth);
        break;
      case json::parse_event_t::object_end:
        keys_.pop_back();
        break;
      case json::parse_event_t::key:
        add_key(value.get_ref<const std::string&>());
        break;
      default:
        break;
    }
    return true;
  }

 private:
  void check_depth(int depth) const {
    if (depth > kMaxDepth) {
      throw IoError(path_, fmt::format("JSON nests deeper than {} levels, which no published file "
                                       "does: download it again",
                                       kMaxDepth));
    }
  }
  void add_key(const std::string& key) {
    if (!keys_.back().insert(key).second) {
      throw IoError(path_, fmt::format("key '{}' is given twice in one JSON object: download the "
                                       "file again, or remove one of the two",
                                       printable(key)));
    }
  }

  const std::string& path_;
  std::vector<std::unordered_set<std::string>> keys_;  // of the objects that are open
};

}  // namespace

std::string read_file(const std::filesystem::path& path, uint64_t max_bytes) {
  std::error_code error;
  const auto status = std::filesystem::status(path, error);
  if (!std::filesystem::exists(status)) {
    throw IoError(path.string(), "no such file: check the path, or download it");
  }
  if (!std::filesystem::is_regular_file(status)) {
    throw IoError(path.string(), "is not a regular file: name a file");
  }
  const auto size = std::filesystem::file_size(path, error);
  std::ifstream in(path, std::ios::binary);
  if (error || !in) {
    throw IoError(path.string(), "cannot be opened: check its permissions");
  }
  if (size > max_bytes) {
    throw IoError(path.string(),
                  fmt::format("holds {} bytes, more than the {} that such a file may have: is it "
                              "the right file?",
                              size, max_bytes));
  }
  std::string bytes(size, '\0');
  in.read(bytes.data(), static_cast<std::streamsize>(size));
  if (static_cast<uint64_t>(in.gcount()) != size) {
    throw IoError(path.string(), fmt::format("only {} of {} bytes could be read: check the disk",
                                             in.gcount(), size));
  }
  return bytes;
}

json parse_json(std::string_view text, const std::string& path) {
  try {
    // The wrapper keeps the state: the parser copies the std::function it is given.
    StrictEvents events(path);
    return json::parse(text.begin(), text.end(),
                       [&events](int depth, json::parse_event_t event, json& value) {
                         return events(depth, event, value);
                       });
  } catch (const json::parse_error& e) {
    throw IoError(path, fmt::format("is not valid JSON at byte {} of {}: download it again", e.byte,
                                    text.size()));
  } catch (const json::exception&) {  // a number that no double holds
    throw IoError(path, "holds a number out of range: download it again");
  }
}

json read_json_file(const std::filesystem::path& path) {
  return parse_json(read_file(path, kMaxJsonBytes), path.string());
}

std::string printable(std::string_view text) {
  constexpr size_t kMaxBytes = 200;
  std::string out;
  for (const char c : text.substr(0, kMaxBytes)) {
    const auto byte = static_cast<unsigned char>(c);
    if (byte < 0x20 || byte == 0x7f) {
      out += fmt::format("\\x{:02x}", byte);
    } else {
      out += c;
    }
  }
  return text.size() > kMaxBytes ? out + "..." : out;
}

}  // namespace thermoe
