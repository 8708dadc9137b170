// Causal grouped-query attention of some query rows of one sequence over its cached keys and
// values.
//
// Shapes   query rows q[i] [group, head_dim] for rising positions p[i]; keys and values of one KV
//          head in the layout below; out[i] [group, head_dim] = softmax(q K^T scale) V over
//          0..p[i].
// Layout   keys: blocks of kKeyBlock positions, each [head_dim, kKeyBlock], so that a vector of
//          scores needs no sum over lanes; values: [positions, value_stride(head_dim)],
//          zero-padded.
// Bytes    8 * head_dim * (p + 1) of cache per KV head, read once for all rows of a call.
// FLOPs    4 * head_dim * (p + 1) per query head.
// Method   online softmax over blocks of 128 positions aligned to position 0 (Milakov and
//          Gimelshein 2018; Dao et al. 2022), tiles of 4 query heads. A row's result does not
//          depend on the other rows of the call.
// Error    2e-6 of the largest |value|, against float64 in tests/kernels. NaN in, NaN out.
#pragma once

#include <cstdint>
#include <span>

namespace thermoe::cpu {

constexpr int64_t kKeyBlock = 32;
constexpr int64_t kPositionBlock = 128;
constexpr int64_t value_stride(int64_t head_dim) { return (head_dim + 31) / 32 * 32; }
// Floats of one KV head's keys or values for max_positions positions.
constexpr int64_t key_floats(int64_t max_positions, int64_t head_dim) {
  return (max_positions + kPositionBlock - 1) / kPositionBlock * kPositionBlock * head_dim;
}
constexpr int64_t value_floats(int64_t max_positions, int64_t head_dim) {
  return max_positions * value_stride(head_dim);
}

// Writes the key and the value of one position; both hold head_dim floats.
void store_key_value(const float* key, const float* value, int64_t head_dim, int64_t position,
                     float* keys, float* values);

// `group` query heads that share this KV head, for each row; consecutive in memory.
struct AttentionCall {
  std::span<const int32_t> rows;       // row numbers, with rising positions
  const int32_t* positions = nullptr;  // [row]
  const float* queries = nullptr;  // row r's first head of the group at queries + r * row_stride
  float* out = nullptr;            // likewise
  int64_t row_stride = 0;
  int group = 1;
  int64_t head_dim = 0;
  float scale = 1.0f;
  const float* keys = nullptr;
  const float* values = nullptr;
};

// Floats of scratch for a call of `rows` rows.
size_t attention_scratch_floats(int64_t rows, int group, int64_t head_dim);
void attend(const AttentionCall& call, float* scratch);

}  // namespace thermoe::cpu
