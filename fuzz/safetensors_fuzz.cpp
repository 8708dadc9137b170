// The safetensors header from any bytes. The first three bytes choose how far the data that the
// header describes reaches past the input: (b0 + 256 b1) << (b2 % 48) bytes.
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <span>

#include "model/safetensors.h"
#include "thermoe/error.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size < 3) return 0;
  const auto bytes = std::as_bytes(std::span(data + 3, size - 3));
  const uint64_t data_bytes = (uint64_t{data[0]} + 256 * uint64_t{data[1]}) << (data[2] % 48);
  const uint64_t file_bytes = bytes.size() + data_bytes;
  try {
    for (const auto& [name, tensor] :
         thermoe::parse_safetensors_header(bytes, file_bytes, "fuzz.safetensors")) {
      // What the checkpoint relies on: every tensor lies within the file.
      if (tensor.begin_byte > file_bytes || tensor.size_bytes > file_bytes - tensor.begin_byte) {
        std::abort();
      }
    }
  } catch (const thermoe::IoError&) {  // the one way to refuse a file
  }
  return 0;
}
