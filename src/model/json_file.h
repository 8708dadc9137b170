// Reading JSON from untrusted files: strict, bounded, and every failure an IoError naming the file.
#pragma once

#include <cstdint>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>

namespace thermoe {

// The whole file as bytes. Throws IoError where it is missing, no regular file, or larger than
// `max_bytes`.
std::string read_file(const std::filesystem::path& path, uint64_t max_bytes);

// Parses `text`; `path` only names it in errors. Throws IoError for anything that is not one JSON
// value in UTF-8, for a key given twice in one object (which of the two counts differs between
// readers), and for nesting deeper than 64.
nlohmann::json parse_json(std::string_view text, const std::string& path);

// parse_json of a file of up to 256 MB (the largest published tokenizers have some 30 MB).
nlohmann::json read_json_file(const std::filesystem::path& path);

// A name out of an untrusted file, fit for a one-line message: control characters escaped, cut at
// 200 bytes.
std::string printable(std::string_view text);

}  // namespace thermoe
