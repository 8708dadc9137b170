// A block a token; every kernel here moves its operands once (bytes: the arrays named in
// token_ops.h) and is bound by that. Sums in f32 in a fixed order: deterministic.
// Reference and tolerance: tests/kernels/cuda/token_ops_test.cpp (float64).
#include "kernels/cuda/decode_tile.cuh"
#include "kernels/cuda/token_ops.h"

namespace thermoe::cuda {
namespace {

constexpr int kThreads = 256, kWarps = kThreads / 32;
constexpr int kMostHeads = 1024;  // of queries and keys together

__device__ inline float warp_sum(float value) {
#pragma unroll
  for (int mask = 16; mask > 0; mask /= 2) value += __shfl_xor_sync(~0u, value, mask);
  return value;
}

__device__ inline float block_sum(float value) {
  __shared__ float sums[kWarps];
  value = warp_sum(value);
  if (threadIdx.x % 32 == 0) sums[threadIdx.x / 32] = value;
  __syncthreads();
  float sum = 0;
  for (int w = 0; w < kWarps; ++w) sum += sums[w];
  return sum;
}

// Where element c of a row stands in fragment order.
__device__ inline int64_t in_fragments(int64_t c) {
  return c / 32 * 32 + fragment_position(c % 32);
}

__global__ void embed_kernel(const __nv_bfloat16* embeddings, const int32_t* tokens, int hidden,
                             float* x) {
  const int64_t row = blockIdx.x;
  const __nv_bfloat16* from = embeddings + int64_t{tokens[row]} * hidden;
  for (int c = static_cast<int>(threadIdx.x); c < hidden; c += kThreads)
    x[row * hidden + c] = __bfloat162float(from[c]);
}

__global__ void __launch_bounds__(kThreads) norm_kernel(NormArguments a) {
  const int64_t to = int64_t{blockIdx.x} * a.hidden;
  const int64_t row = a.from == nullptr ? blockIdx.x : a.from[blockIdx.x];
  float2* x = reinterpret_cast<float2*>(a.x + row * a.hidden);
  float squares = 0;
  for (int c = static_cast<int>(threadIdx.x); c < a.hidden / 2; c += kThreads) {
    float2 value = x[c];
    if (a.added != nullptr) {
      const auto pair = reinterpret_cast<const __nv_bfloat162*>(a.added + row * a.hidden)[c];
      value.x += __low2float(pair);
      value.y += __high2float(pair);
    }
    if (a.bias != nullptr) {
      value.x += a.bias[2 * c];
      value.y += a.bias[2 * c + 1];
    }
    if (a.added != nullptr || a.bias != nullptr) x[c] = value;
    squares += value.x * value.x + value.y * value.y;
  }
  const float scale = rsqrtf(block_sum(squares) / static_cast<float>(a.hidden) + a.eps);
  for (int c = static_cast<int>(threadIdx.x); c < a.hidden / 2; c += kThreads) {
    const float2 value = x[c];
    const __nv_bfloat162 pair = __floats2bfloat162_rn(value.x * scale * a.weight[2 * c],
                                                      value.y * scale * a.weight[2 * c + 1]);
    *reinterpret_cast<__nv_bfloat162*>(a.normed + to + 2 * c) = pair;
    if (a.fragments != nullptr)
      *reinterpret_cast<__nv_bfloat162*>(a.fragments + to + in_fragments(2 * c)) = pair;
  }
}

// A head of queries, keys or values of one token: its values before the norm.
__device__ inline float projected_value(const ProjectionArguments& a, int64_t row, int head,
                                        int dim) {
  const int64_t at = int64_t{head} * a.cache.head_dim + dim;
  const int64_t width = int64_t{a.heads + 2 * a.cache.kv_heads} * a.cache.head_dim;
  const float value = __bfloat162float(a.projected[row * width + at]);
  return a.bias == nullptr ? value : value + a.bias[at];
}

// Mean squares that the norm of `head` divides by, of the sums of squares of all heads.
__device__ float mean_square(const ProjectionArguments& a, const float* sums, int head) {
  const auto dims = static_cast<float>(a.cache.head_dim);
  if (a.norm == HeadNorm::kPerHead) return sums[head] / dims;
  const bool query = head < a.heads;
  const int first = query ? 0 : a.heads, count = query ? a.heads : a.cache.kv_heads;
  float sum = 0;
  for (int h = first; h < first + count; ++h) sum += sums[h];
  return sum / (dims * static_cast<float>(count));
}

__device__ float normed_value(const ProjectionArguments& a, int64_t row, int head, int dim,
                              float scale) {
  float value = projected_value(a, row, head, dim);
  if (a.norm != HeadNorm::kNone) {
    const bool query = head < a.heads;
    const int place = a.norm == HeadNorm::kPerHead
                          ? dim
                          : (query ? head : head - a.heads) * a.cache.head_dim + dim;
    value *= scale * (query ? a.q_norm : a.k_norm)[place];
  }
  return a.clip > 0 ? fminf(fmaxf(value, -a.clip), a.clip) : value;
}

// Halves (a, b) of a head become (a cos - b sin, b cos + a sin) (kernels/cpu/elementwise.h).
__device__ void rotate_head(const ProjectionArguments& a, int64_t row, int head, float scale) {
  const int half = a.cache.head_dim / 2, lane = static_cast<int>(threadIdx.x % 32);
  const int position = a.positions[row];
  __nv_bfloat16* to =
      head < a.heads
          ? a.queries + (row * a.heads + head) * a.cache.head_dim
          : a.cache.keys + ((int64_t{a.sequences[row]} * a.cache.kv_heads + head - a.heads) *
                                a.cache.positions +
                            position) *
                               a.cache.head_dim;
  for (int i = lane; i < half; i += 32) {
    float sine, cosine;
    sincosf(static_cast<float>(position) * a.frequencies[i], &sine, &cosine);
    const float first = normed_value(a, row, head, i, scale);
    const float second = normed_value(a, row, head, i + half, scale);
    to[in_fragments(i)] = __float2bfloat16(first * cosine - second * sine);
    to[in_fragments(i + half)] = __float2bfloat16(second * cosine + first * sine);
  }
}

__device__ void store_value(const ProjectionArguments& a, int64_t row, int kv_head) {
  const int head = a.heads + a.cache.kv_heads + kv_head, dims = a.cache.head_dim;
  const int position = a.positions[row];
  __nv_bfloat16* to = a.cache.values + ((int64_t{a.sequences[row]} * a.cache.kv_heads + kv_head) *
                                            a.cache.positions +
                                        position / 32 * 32) *
                                           dims;
  for (int d = static_cast<int>(threadIdx.x % 32); d < dims; d += 32) {
    float value = projected_value(a, row, head, d);
    if (a.clip > 0) value = fminf(fmaxf(value, -a.clip), a.clip);
    to[d * 32 + fragment_position(position % 32)] = __float2bfloat16(value);
  }
}

__global__ void __launch_bounds__(kThreads) projections_kernel(ProjectionArguments a) {
  __shared__ float sums[kMostHeads];
  const int64_t row = blockIdx.x;
  const int warp = static_cast<int>(threadIdx.x / 32), lane = static_cast<int>(threadIdx.x % 32);
  const int rotated = a.heads + a.cache.kv_heads;
  if (a.norm != HeadNorm::kNone) {
    for (int h = warp; h < rotated; h += kWarps) {
      float squares = 0;
      for (int d = lane; d < a.cache.head_dim; d += 32) {
        const float value = projected_value(a, row, h, d);
        squares += value * value;
      }
      squares = warp_sum(squares);
      if (lane == 0) sums[h] = squares;
    }
    __syncthreads();
  }
  for (int h = warp; h < rotated + a.cache.kv_heads; h += kWarps) {
    if (h >= rotated) {
      store_value(a, row, h - rotated);
      continue;
    }
    const float scale = a.norm == HeadNorm::kNone ? 1.0f : rsqrtf(mean_square(a, sums, h) + a.eps);
    rotate_head(a, row, h, scale);
  }
}

// SplitMix64 (Steele, Lea, Flood 2014), as app/decoder.cpp.
__device__ inline uint64_t mix(uint64_t x) {
  x += 0x9E3779B97F4A7C15u;
  x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9u;
  x = (x ^ (x >> 27)) * 0x94D049BB133111EBu;
  return x ^ (x >> 31);
}

__device__ inline double uniform(uint64_t seed, int round, int row, int position) {
  uint64_t hash = mix(seed);
  hash = mix(hash ^ static_cast<uint64_t>(round));
  hash = mix(hash ^ static_cast<uint64_t>(row));
  hash = mix(hash ^ static_cast<uint64_t>(position));
  return static_cast<double>(hash >> 11) * 0x1.0p-53;
}

struct Best {
  float value = -INFINITY;
  int at = 0;
};

__device__ inline Best better(Best a, Best b) {
  return b.value > a.value || (b.value == a.value && b.at < a.at) ? b : a;
}

__device__ Best block_best(Best best) {
  __shared__ Best bests[kWarps];
#pragma unroll
  for (int mask = 16; mask > 0; mask /= 2)
    best = better(
        best, Best{__shfl_xor_sync(~0u, best.value, mask), __shfl_xor_sync(~0u, best.at, mask)});
  if (threadIdx.x % 32 == 0) bests[threadIdx.x / 32] = best;
  __syncthreads();
  for (int w = 0; w < kWarps; ++w) best = better(best, bests[w]);
  return best;
}

// The first id at which the running sum of weights exceeds `share` of them all. Each thread sums
// ids of its own in a row.
__device__ int draw(const float* logits, int vocabulary, float most, float scale, double share) {
  __shared__ double parts[kThreads];
  __shared__ int chosen;
  const int each = ceil_div(vocabulary, kThreads), thread = static_cast<int>(threadIdx.x);
  const int begin = min(thread * each, vocabulary), end = min(begin + each, vocabulary);
  double own = 0;
  for (int id = begin; id < end; ++id) own += expf((logits[id] - most) * scale);
  parts[thread] = own;
  if (thread == 0) chosen = -1;
  __syncthreads();
  double before = 0, total = 0;
  for (int i = 0; i < kThreads; ++i) {
    if (i < thread) before += parts[i];
    total += parts[i];
  }
  double left = total * share - before;
  if (left >= 0 && left < own)
    for (int id = begin; id < end; ++id) {
      left -= expf((logits[id] - most) * scale);
      if (left < 0) {
        chosen = id;
        break;
      }
    }
  __syncthreads();
  return chosen;
}

__global__ void __launch_bounds__(kThreads) sample_kernel(SampleArguments a) {
  const int row = static_cast<int>(blockIdx.x);
  const float* logits = a.logits + int64_t{row} * a.vocabulary;
  Best best;
  for (int id = static_cast<int>(threadIdx.x); id < a.vocabulary; id += kThreads)
    best = better(best, Best{logits[id], id});
  best = block_best(best);
  int token = best.at;
  if (a.temperature > 0) {
    const int drawn = draw(logits, a.vocabulary, best.value, 1.0f / a.temperature,
                           uniform(a.seed, *a.round, row, a.positions[row] + 1));
    if (drawn >= 0) token = drawn;  // else rounding left a remainder
  }
  if (threadIdx.x == 0) a.tokens[row] = token;
}

__global__ void advance_kernel(const int32_t* tokens, int rows, int32_t* positions, int32_t* step,
                               int32_t* log) {
  const int row = static_cast<int>(threadIdx.x);
  const int now = *step;
  __syncthreads();
  for (int r = row; r < rows; r += static_cast<int>(blockDim.x)) {
    log[int64_t{now} * rows + r] = tokens[r];
    ++positions[r];
  }
  if (row == 0) *step = now + 1;
}

}  // namespace

cudaError_t embed(const __nv_bfloat16* embeddings, const int32_t* tokens, int rows, int hidden,
                  float* x, cudaStream_t stream) {
  if (rows < 1 || hidden < 1) return cudaErrorInvalidValue;
  embed_kernel<<<static_cast<unsigned>(rows), kThreads, 0, stream>>>(embeddings, tokens, hidden, x);
  return cudaGetLastError();
}

cudaError_t rms_norm(const NormArguments& a, cudaStream_t stream) {
  if (a.rows < 1 || a.hidden < 2 || a.hidden % 2 != 0 ||
      (a.fragments != nullptr && a.hidden % 32 != 0))
    return cudaErrorInvalidValue;
  norm_kernel<<<static_cast<unsigned>(a.rows), kThreads, 0, stream>>>(a);
  return cudaGetLastError();
}

cudaError_t finish_projections(const ProjectionArguments& a, cudaStream_t stream) {
  if (a.rows < 1 || a.heads < 1 || a.cache.kv_heads < 1 ||
      a.heads + a.cache.kv_heads > kMostHeads || !attention_takes(a.cache.head_dim))
    return cudaErrorInvalidValue;
  projections_kernel<<<static_cast<unsigned>(a.rows), kThreads, 0, stream>>>(a);
  return cudaGetLastError();
}

cudaError_t sample(const SampleArguments& a, cudaStream_t stream) {
  if (a.rows < 1 || a.vocabulary < 1 || !(a.temperature >= 0)) return cudaErrorInvalidValue;
  sample_kernel<<<static_cast<unsigned>(a.rows), kThreads, 0, stream>>>(a);
  return cudaGetLastError();
}

cudaError_t advance_step(const int32_t* tokens, int rows, int32_t* positions, int32_t* step,
                         int32_t* log, cudaStream_t stream) {
  if (rows < 1) return cudaErrorInvalidValue;
  advance_kernel<<<1, 1024, 0, stream>>>(tokens, rows, positions, step, log);
  return cudaGetLastError();
}

}  // namespace thermoe::cuda
