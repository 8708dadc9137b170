// The safetensors format: 8 bytes of header length N (little-endian), N bytes of JSON that give
// each tensor's dtype, shape and byte range, then the data, which the ranges tile without hole or
// overlap. Source: github.com/huggingface/safetensors, "Format".
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "thermoe/views.h"

namespace thermoe {

struct StoredTensor {
  std::string dtype_name;      // as the file spells it, "BF16"
  std::optional<DType> dtype;  // empty where thermoe does not compute with it
  std::vector<int64_t> shape;  // every dimension >= 0
  uint64_t begin_byte = 0;     // from the start of the file
  uint64_t size_bytes = 0;
};

using SafetensorsHeader = std::map<std::string, StoredTensor>;

// Parses and checks the header of a file of `file_bytes` bytes that starts with `head` (all of the
// file or any prefix that holds the header). On return every tensor lies within the file and
// shape x dtype equals its size where the dtype is one of the format's. Throws IoError that starts
// with `path`. Touches no byte past the header.
SafetensorsHeader parse_safetensors_header(std::span<const std::byte> head, uint64_t file_bytes,
                                           const std::string& path);

}  // namespace thermoe
