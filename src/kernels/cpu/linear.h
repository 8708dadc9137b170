// y = x W^T for few rows: stored weights widened in registers, each read from memory once.
//
// Shapes   x [m, K] f32 packed rows; W [N, K] bf16, f16 or f32, row-major; y [m, N] f32.
// Bytes    N * K * size(W) + 4 * m * (K + N): bound by memory while m is below about 8.
// FLOPs    2 * m * N * K.
// Tile     R rows x O outputs of accumulators, vectors along K (1x8, 2..3x4, 3..6x2); rows in
// blocks
//          that stay in the L2 cache, weights streamed past them in storage order.
// Order    Each output has one accumulator that takes the vectors of K in order, then a fixed tree
//          over lanes: an output's bits don't depend on m, on the tile or on how the work is split,
//          so a token's result doesn't depend on the batch it is in.
// Error    |y - exact| <= (K / lanes + 8) * 2^-24 * sum |x w|; tests use float64 as reference.
#pragma once

#include "kernels/cpu/rows.h"

namespace thermoe::cpu {

// y[r, first + j] for r < x.count, j < count, where y_stride floats part the rows of y; adds to y
// where `accumulate`. x must be packed for W's dtype with a stride of padded_cols(W.cols) or more.
// Touches nothing of y outside [first, first + count): calls on disjoint ranges may run at once.
void linear(const PackedRows& x, const WeightView& w, int64_t first, int64_t count, float* y,
            int64_t y_stride, bool accumulate = false);

// Widens rows [first, first + count) of W to f32 in packed order: to [count, padded_cols(W.cols)].
void widen_rows(const WeightView& w, int64_t first, int64_t count, float* to);

}  // namespace thermoe::cpu
