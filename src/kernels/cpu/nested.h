// y = x W^T for W in two planes of 4 bits (thermoe/nested_view.h): int8, or int4 from `hi` alone.
//
// Shapes   x [m, K] int8 in groups of 32 (quantized_rows.h); W [N, K] nested; y [m, N] f32.
// Bytes    N * K * (17 or 33) / 32 of weights, read from memory once for any m; 2.25 * m * K of x,
//          4 * m * N of y: bound by memory for few rows.
// FLOPs    2 * m * N * K (integer multiply-adds, and 2 f32 operations for each 4 to 16 of them).
// Tile     A block of 32 x 32 weights meets up to 4 rows with their activations in registers; 16
//          rows' sums of a row block stay in the L1 cache.
// Order    Integer sums of one row, one group and one lane are exact. Then f32: sum over the groups
//          in order, per lane, of integer * activation scale * weight scale; at last over lanes.
//          Neither m nor the split of row blocks has a part in it: a row's bits don't depend on the
//          batch or on the threads, only on the vector length.
// Error    against the same quantised x and W in float64: <= (K / 32 + 8) * 2^-23 * the sum of
//          |x| * (|w| + 8 * (plane_ratio + 1) * |base * scale|), as nibbles are summed biased.
// Reference dequantize_nested() and float64 in tests/kernels/nested_test.cpp.
#pragma once

#include "kernels/cpu/quantized_rows.h"
#include "thermoe/nested_view.h"

namespace thermoe::cpu {

// y[r, j] for r < x.count and the rows j of W in row blocks [first, first + blocks), where y_stride
// floats part the rows of y. x.cols must be w.cols. Calls on disjoint blocks may run at once.
void nested_multiply(const QuantizedRows& x, const NestedView& w, Planes planes, int64_t first,
                     int64_t blocks, float* y, int64_t y_stride);

// y[r, u] = silu(gate) * up of unit u, for the 16 units u of each row block of a gate_up matrix
// (thermoe/quantized_expert.h), whose rows are whole blocks; otherwise as nested_multiply().
// silu(g) = g / (1 + exp(-g)), within 1e-6; NaN in, NaN out.
void nested_swiglu(const QuantizedRows& x, const NestedView& gate_up, Planes planes, int64_t first,
                   int64_t blocks, float* y, int64_t y_stride);

}  // namespace thermoe::cpu
