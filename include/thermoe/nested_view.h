// NestedView: a weight matrix as int8 in two 4-bit planes, of which the first alone is int4.
#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>

namespace thermoe {

// Which planes of a nested weight are read.
enum class Planes : uint8_t { kHi, kBoth };
constexpr const char* name_of(Planes planes) { return planes == Planes::kHi ? "int4" : "int8"; }

// A weight w [rows (outputs), cols (inputs)] in groups of 32 columns of one row:
//
//   int8: w[r, c] = base * scale[r, c / 32] * (plane_ratio * hi[r, c] + lo[r, c])
//   int4: w[r, c] = base * scale[r, c / 32] *  plane_ratio * hi[r, c]
//
// with hi and lo in [-8, 7]. At plane_ratio 16 the planes are the halves of an int8, and hi has to
// be its rounding; below, they overlap, and hi may be rounded for the sake of the int4 products
// (experts/nested_quantizer.h). Stored in blocks of 32 rows by 32 columns, row blocks outermost,
// both dimensions padded with blocks' worth of zeros (hi = lo = 0). One block is 512 bytes of each
// plane and 32 bytes of scales; docs/kernels.md draws it. It is the order of the A operand of the
// matrix instruction m16n8k16, two row tiles m by two column tiles k: thread (g = 0..7, t = 0..3)
// of a warp owns bytes 16 (4 g + t) .. + 15 of a plane's block, four little-endian words (m, k) =
// (0, 0), (1, 0), (0, 1), (1, 1). A word holds 8 nibbles, biased by 8, lowest bits first:
//
//   nibble   0      1      2      3      4      5      6      7
//   row      g    g + 8    g    g + 8    g    g + 8    g    g + 8      of 16 m ..
//   column  2t     2t    2t + 8 2t + 8 2t + 1 2t + 1 2t + 9 2t + 9     of 16 k ..
//
// so that the low nibbles of all bytes are one row's and the high nibbles another's (CPU), and
// nibbles i and i + 4 are neighbours in a register of two bf16 (GPU). The scales of a block are
// 8 words, word g holding those of rows g, g + 16, g + 8, g + 24, each as nested_scale() reads it.
//
// Not owning; the planes and scales are each contiguous.
struct NestedView {
  static constexpr int64_t kBlock = 32;             // rows, and columns, of a block; the group
  static constexpr int64_t kPlaneBlockBytes = 512;  // of one plane
  static constexpr int64_t kScaleBlockBytes = 32;

  const uint8_t* hi = nullptr;      // [row_blocks, col_blocks, 512]
  const uint8_t* lo = nullptr;      // likewise
  const uint8_t* scales = nullptr;  // [row_blocks, col_blocks, 32]
  int64_t rows = 0, cols = 0;
  float base = 1;
  int32_t plane_ratio = 16;  // 1 to 16; what thermoe quantize writes has 12

  int64_t row_blocks() const { return (rows + kBlock - 1) / kBlock; }
  int64_t col_blocks() const { return (cols + kBlock - 1) / kBlock; }
  int64_t blocks() const { return row_blocks() * col_blocks(); }
  // Bytes that a product reads.
  size_t bytes(Planes planes) const {
    const int64_t read = planes == Planes::kHi ? 1 : 2;
    return static_cast<size_t>(blocks() * (kScaleBlockBytes + read * kPlaneBlockBytes));
  }
  bool empty() const { return hi == nullptr || lo == nullptr || scales == nullptr; }
};

// A scale of one byte: sign, 3 bits of exponent, 4 of mantissa: +-(1 + m / 16) 2^(e - 3) for e >=
// 1,
// +-m / 16 2^-2 for e = 0. From 2^-6 to 31, and zero. Four bits of mantissa serve better than f8
// e4m3's three: within a matrix scales don't differ by more than the exponents span.
inline float nested_scale(uint8_t code) {
  const uint32_t bits =
      (static_cast<uint32_t>(code & 0x80u) << 24) | (static_cast<uint32_t>(code & 0x7Fu) << 19);
  return std::bit_cast<float>(bits) * 0x1p124f;
}

}  // namespace thermoe
