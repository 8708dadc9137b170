// The small row operations between the products: normalisation, rotation, softmax, sums of rows.
//
// Each moves a row once through the L1 cache (8 to 12 bytes an element) and does a few FLOPs with
// it. f32 throughout, sums over a row in vector accumulators in a fixed order. Reference: float64
// in tests/kernels, 1e-5 of the row's largest magnitude.
#pragma once

#include <span>

#include "thermoe/views.h"

namespace thermoe::cpu {

// out = x / sqrt(mean(x^2) + eps) * weight, over n elements; out may be x. Zhang and Sennrich 2019.
void rms_norm(const float* x, const float* weight, int64_t n, float eps, float* out);

// x = softmax(x) over n elements, in place. All must be finite.
void softmax(float* x, int64_t n);

// out = sum over i of weights[i] * rows[i], added in the order of i; out holds n elements, and is
// where the sum starts if `accumulate`.
void weighted_sum(std::span<const float* const> rows, const float* weights, int64_t n, float* out,
                  bool accumulate = false);

// Widens row `row` of a stored table (token embeddings) to f32.
void widen_row(const WeightView& table, int64_t row, float* out);

// Rotates `heads` consecutive heads of head_dim elements in place: halves (a, b) become
// (a cos - b sin, b cos + a sin), with head_dim / 2 cosines and sines. Su et al. 2021, in the
// half-split layout of Hugging Face's checkpoints.
void rotate(float* x, int64_t heads, int64_t head_dim, const float* cosines, const float* sines);

}  // namespace thermoe::cpu
