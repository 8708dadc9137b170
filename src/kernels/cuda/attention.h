// Causal attention over a cache of keys and values, for few or many query rows, on a GPU.
#pragma once

#include <cuda_bf16.h>
#include <cuda_runtime_api.h>

#include <cstdint>

namespace thermoe::cuda {

// Keys and values of one layer. Both are what a thread of m16n8k16 reads, in fragment order
// (decode_experts.h): keys of each 32 dimensions of a position, values of each 32 positions of a
// dimension. Positions that no row has reached must hold finite numbers.
struct CacheView {
  __nv_bfloat16* keys = nullptr;    // [sequences, kv_heads, positions, head_dim]
  __nv_bfloat16* values = nullptr;  // [sequences, kv_heads, positions / 32, head_dim, 32]
  int kv_heads = 0, head_dim = 0;
  int64_t positions = 0;  // a multiple of 32
};

// Rows order[begin] .. order[begin + count - 1] of one sequence, in rising position.
struct AttentionUnit {
  int32_t begin = 0, count = 0, sequence = 0;
};

struct AttentionArguments {
  int heads = 0;
  int units = 0;
  const AttentionUnit* unit = nullptr;     // [units], count * (heads / kv_heads) <= kQueryRows each
  const int32_t* order = nullptr;          // rows by sequence
  const int32_t* positions = nullptr;      // [N] of each row: it sees positions 0 .. its own
  const __nv_bfloat16* queries = nullptr;  // [N, heads, head_dim], fragment order
  CacheView cache;
  __nv_bfloat16* out = nullptr;  // [N, heads * head_dim], plain order
  bool split = false;            // a block a unit, its warps sharing the keys: for few units
};

constexpr int kQueryRows = 16;  // rows of a unit times query heads of a KV head

// How many rows of one sequence a unit may have; 0: more query heads share a KV head than are
// supported.
constexpr int rows_of_unit(int heads, int kv_heads) { return kQueryRows / (heads / kv_heads); }
// 32, 64, 96, 128.
constexpr bool attention_takes(int64_t head_dim) {
  return head_dim > 0 && head_dim <= 128 && head_dim % 32 == 0;
}

// out = softmax(q k / sqrt(head_dim)) v, products in bf16 with f32 sums, the probabilities rounded
// to bf16. Relative error against float64 below 1 % of the largest value. Capturable; everything
// but the sizes is read on the device. cudaErrorInvalidValue where a size is out of bounds.
cudaError_t attend(const AttentionArguments& arguments, cudaStream_t stream);

}  // namespace thermoe::cuda
