// Activations as the CPU kernels read them: packed rows.
//
// A packed row holds the f32 values of one row of a matrix in the order in which the kernels widen
// stored weights, padded with zeros to padded_cols(cols). bf16 weights are widened by splitting
// each 32-bit pair into its low and its high half (one shift, one mask, no shuffle), so rows that
// meet bf16 weights hold, per block of two vectors, the even elements first and the odd ones after.
// The order depends on the vector length of the CPU at hand: pack and use in the same process.
#pragma once

#include <cstdint>

#include "thermoe/views.h"

namespace thermoe::cpu {

// Floats of a packed row: two of the longest vectors that the kernels use (16 lanes).
constexpr int64_t kPackedBlock = 32;
constexpr int64_t padded_cols(int64_t cols) {
  return (cols + kPackedBlock - 1) / kPackedBlock * kPackedBlock;
}

// `count` packed rows. Row r stands at data + (ids ? ids[r] : r) * stride, so a subset of the rows
// (the tokens of one expert) needs no copy.
struct PackedRows {
  const float* data = nullptr;
  int64_t stride = 0;
  int64_t count = 0;
  const int32_t* ids = nullptr;

  const float* row(int64_t r) const { return data + (ids != nullptr ? ids[r] : r) * stride; }
  // Rows [first, first + rows).
  PackedRows slice(int64_t first, int64_t rows) const {
    return ids != nullptr ? PackedRows{data, stride, rows, ids + first}
                          : PackedRows{data + first * stride, stride, rows, nullptr};
  }
};

// packed [m, padded_cols(n)] = x [m, n], in the order that weights of `dtype` need. The two must
// not overlap. Moves 8 * m * n bytes.
void pack_rows(DType dtype, ConstMatrix x, Matrix packed);

// packed = silu(gate) * up, with gate and up [m, n]; otherwise as pack_rows. silu(g) = g / (1 +
// exp(-g)). Relative error below 1e-6 of the exact value. NaN in, NaN out.
void pack_swiglu(DType dtype, ConstMatrix gate, ConstMatrix up, Matrix packed);

}  // namespace thermoe::cpu
