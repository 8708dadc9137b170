// A .npy file from any bytes.
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <span>

#include "../app/npy.h"
#include "thermoe/error.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const auto bytes = std::as_bytes(std::span(data, size));
  try {
    const auto array = thermoe::app::parse_npy(bytes, "fuzz.npy");
    // What the program relies on: the shape names exactly the elements that are there.
    size_t elements = 1;
    for (const int64_t dimension : array.shape) elements *= static_cast<size_t>(dimension);
    if (elements != array.values.size() || elements > size / 2) std::abort();
    // What is written is read back as it is.
    const auto again = thermoe::app::npy_bytes(array.shape, std::span<const float>(array.values));
    const auto read = thermoe::app::parse_npy(std::as_bytes(std::span(again)), "again.npy");
    if (read.shape != array.shape || read.values.size() != array.values.size()) std::abort();
  } catch (const thermoe::IoError&) {  // the one way to refuse a file
  }
  return 0;
}
