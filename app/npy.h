// NumPy's .npy format, as far as thermoe exchanges arrays with it: the magic "\x93NUMPY", a
// version, the length of a header (two bytes in version 1, four in 2 and 3), a Python dictionary
// that names type, order and shape, then the elements. Source: numpy.org/doc/stable,
// "numpy.lib.format".
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

namespace thermoe::app {

enum class NpyType : uint8_t { kF16, kBf16, kF32, kF64 };

struct NpyHeader {
  NpyType type = NpyType::kF32;
  std::vector<int64_t> shape;  // every dimension >= 0
  size_t elements = 0;         // their product
  size_t data_begin = 0;       // where the elements start, in bytes from the file's start
};

// Parses and checks the header of a file of which `file` is every byte: little-endian floating
// point ('<f2', '<f4', '<f8', and bfloat16 as '<u2' or two raw bytes '<V2', '|V2'), C order, and as
// many elements as the shape says, to the byte. Throws IoError that starts with `path` and says how
// to save the array so that it can be read: big-endian, Fortran order and other types are refused.
NpyHeader parse_npy_header(std::span<const std::byte> file, const std::string& path);

struct FloatArray {
  std::vector<int64_t> shape;
  std::vector<float> values;  // row-major
};

// parse_npy_header, and the elements as f32 (f64 is rounded).
FloatArray parse_npy(std::span<const std::byte> file, const std::string& path);

// The bytes of a version 1.0 file, for np.load. `values` has as many elements as `shape` says.
std::string npy_bytes(std::span<const int64_t> shape, std::span<const float> values);
std::string npy_bytes(std::span<const int64_t> shape, std::span<const int32_t> values);

}  // namespace thermoe::app
