// Writing the safetensors format (safetensors.h).
#pragma once

#include <cstdint>
#include <filesystem>
#include <span>
#include <string>
#include <vector>

#include "thermoe/views.h"

namespace thermoe {

// A tensor as a file has it. `data` is looked at while it is written.
struct TensorToWrite {
  std::string name;
  std::string dtype_name;  // as the format spells it: "BF16", "U8"
  std::vector<int64_t> shape;
  const void* data = nullptr;
  uint64_t size_bytes = 0;
};

// As the format spells it.
const char* safetensors_name_of(DType dtype);

// Writes them in the order given, from a multiple of 64 bytes on: a tensor is aligned to its
// elements where those before it have multiples of that. The file is on the disk when this returns.
// Throws IoError where it can't be written; what is there then is no whole file.
void write_safetensors(const std::filesystem::path& path, std::span<const TensorToWrite> tensors);

}  // namespace thermoe
