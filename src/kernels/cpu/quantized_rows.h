// Activations as the kernels of nested planes read them: int8 in groups of 32, permuted.
//
// Shapes   x [m, K] f32; a row becomes ceil(K / 32) groups, each 64 bytes of int8, a f32 scale and
//          the f32 sum of the group's values, which the kernels need as nibbles are biased by 8.
// Bytes    4 * m * K read, 2.25 * m * K written.
// Values   q = round to nearest even of x * (127 / amax), amax the group's largest magnitude; x is
//          taken for q * (amax / 127). Bits are the same for every instruction set.
// Order    That of a thread's words in nested_view.h: for t = 0..3, for k = 0, 1, twice (rows m = 0
//          and m = 1 meet the same columns): columns 16 k + 2t, 2t + 8, 2t + 1, 2t + 9. So a vector
//          of 16, 32 or 64 bytes of a plane, unpacked, meets the vector at the same place here.
#pragma once

#include <cstddef>
#include <cstdint>

#include "thermoe/nested_view.h"
#include "thermoe/views.h"

namespace thermoe::cpu {

constexpr int64_t kGroupBytes = 64;  // of int8 values of one group, each column twice

// Bytes of a quantised row, a multiple of 64: the int8 of all groups, their scales, their sums.
constexpr int64_t quantized_row_bytes(int64_t cols) {
  const int64_t groups = (cols + NestedView::kBlock - 1) / NestedView::kBlock;
  return (groups * (kGroupBytes + 2 * int64_t{sizeof(float)}) + 63) / 64 * 64;
}

// `count` quantised rows of `cols` columns, quantized_row_bytes(cols) apart, aligned to 64 bytes.
// Row r stands at place ids ? ids[r] : r, so the tokens of one expert need no copy.
template <typename Byte>
struct QuantizedRowsView {
  Byte* data = nullptr;
  int64_t cols = 0;
  int64_t count = 0;
  const int32_t* ids = nullptr;

  Byte* row(int64_t r) const {
    return data + (ids != nullptr ? ids[r] : r) * quantized_row_bytes(cols);
  }
  int64_t groups() const { return (cols + NestedView::kBlock - 1) / NestedView::kBlock; }
  // Bytes from a row's start to the scales and to the sums.
  int64_t scales_at() const { return groups() * kGroupBytes; }
  int64_t sums_at() const { return scales_at() + groups() * int64_t{sizeof(float)}; }
};
using QuantizedRows = QuantizedRowsView<const std::byte>;
using MutableQuantizedRows = QuantizedRowsView<std::byte>;

// Quantises x [to.count, n] into the groups of `to` from column `first` on, a multiple of 32; n
// columns, padded with zeros to whole groups. Calls on disjoint groups may run at once.
// A group that holds a NaN or an infinity becomes zeros with the scale NaN, so that whatever
// meets it becomes NaN; one whose magnitudes are all below 2^-100 becomes zeros.
void quantize_rows(ConstMatrix x, int64_t first, const MutableQuantizedRows& to);

}  // namespace thermoe::cpu
