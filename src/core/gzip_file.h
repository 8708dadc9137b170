// Whole files, gzip-compressed or not.
#pragma once

#include <string>

namespace thermoe::core {

// The file's bytes, decompressed where it is gzipped. Throws IoError for one that can't be opened,
// is a folder, is damaged or truncated, or unpacks to more than 1 GiB.
std::string read_maybe_gzipped(const std::string& path);

}  // namespace thermoe::core
