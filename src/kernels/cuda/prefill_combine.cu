// What the prefill kernel does before and after its products; both move each byte once.
//
// combine: part [T, k, hidden] bf16 in fragment order to out [T, hidden]. A block a token, a thread
// 8 columns; 2 k hidden bytes a token read, 2 hidden written.
// quantize: x [T, hidden] bf16 to e4m3, 128 columns a scale.
#include <cuda_fp8.h>

#include <algorithm>

#include "kernels/cuda/decode_tile.cuh"
#include "kernels/cuda/prefill_launch.h"

namespace thermoe::cuda {
namespace {

__device__ inline void await_kernel_before() {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.launch_dependents;\ngriddepcontrol.wait;" ::: "memory");
#endif
}

// Of 4 lanes' 4 words each, lane t's word w goes to lane w as its word t.
__device__ inline void transpose_4(uint32_t (&words)[4], int lane) {
#pragma unroll
  for (int step = 1; step < 4; step *= 2) {
#pragma unroll
    for (int low = 0; low < 4; ++low) {
      if ((low & step) != 0) continue;
      const bool upper = (lane & step) != 0;
      const uint32_t got =
          __shfl_xor_sync(0xFFFFFFFFu, upper ? words[low] : words[low | step], step);
      (upper ? words[low] : words[low | step]) = got;
    }
  }
}

__device__ inline void add_weighted(float (&sums)[8], float weight, const uint4& part) {
  const uint32_t words[4] = {part.x, part.y, part.z, part.w};
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    sums[2 * i] = fmaf(weight, __uint_as_float(words[i] << 16), sums[2 * i]);
    sums[2 * i + 1] = fmaf(weight, __uint_as_float(words[i] & 0xFFFF0000u), sums[2 * i + 1]);
  }
}

struct Slots {
  int32_t used[kMostPrefillSlots];
  float weights[kMostPrefillSlots];
};

// A slot a lane. Forms: PrefillForms' bits.
__device__ inline void read_slots(const PrefillExpertsArguments& a, int64_t token, int forms,
                                  Slots& slots) {
  const int slot = static_cast<int>(threadIdx.x);
  if (slot >= a.k) return;
  const int instance = a.plan_instances[token * a.k + slot];
  slots.used[slot] = instance >= 0 ? 1 : 0;
  if (instance < 0) return;
  const ExpertForm form = a.experts[instance].form;
  const int bit = form == ExpertForm::kBf16  ? static_cast<int>(PrefillForms::kBf16)
                  : form == ExpertForm::kFp8 ? static_cast<int>(PrefillForms::kFp8)
                                             : 0;
  slots.weights[slot] =
      (forms & bit) != 0 ? a.plan_weights[token * a.k + slot] : __uint_as_float(0x7FC00000u);
}

__global__ void combine_kernel(const __grid_constant__ PrefillExpertsArguments a, int forms,
                               const uint4* part) {
  __shared__ Slots slots;
  const int64_t token = blockIdx.x;
  const int vectors = a.hidden / 8, lane = static_cast<int>(threadIdx.x) % kWarp;
  read_slots(a, token, forms, slots);
  __syncthreads();
  await_kernel_before();
  for (int base = 0; base < vectors; base += static_cast<int>(blockDim.x)) {
    const int at = base + static_cast<int>(threadIdx.x);
    float sums[8] = {};
#pragma unroll 8
    for (int slot = 0; slot < a.k; ++slot)
      if (at < vectors && slots.used[slot] != 0)
        add_weighted(sums, slots.weights[slot], __ldcs(&part[(token * a.k + slot) * vectors + at]));
    uint32_t words[4];
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const __nv_bfloat162 pair = __floats2bfloat162_rn(sums[2 * i], sums[2 * i + 1]);
      words[i] = *reinterpret_cast<const uint32_t*>(&pair);
    }
    transpose_4(words, lane);
    if (at < vectors)
      reinterpret_cast<uint4*>(a.out)[token * vectors + at] = {words[0], words[1], words[2],
                                                               words[3]};
  }
}

// Half a warp 128 columns of a token: a thread 16 bytes, 8 of the result.
constexpr int kQuantizeThreads = 16;

__device__ inline uint32_t fp8_quad(const float* values, float inverse) {
  const uint32_t low = __nv_cvt_float2_to_fp8x2(
      make_float2(values[0] * inverse, values[1] * inverse), __NV_SATFINITE, __NV_E4M3);
  const uint32_t high = __nv_cvt_float2_to_fp8x2(
      make_float2(values[2] * inverse, values[3] * inverse), __NV_SATFINITE, __NV_E4M3);
  return low | high << 16;
}

__global__ void quantize_kernel(const __nv_bfloat16* x, int64_t count, int hidden, uint2* to,
                                float* scales) {
  await_kernel_before();
  const int64_t thread = int64_t{blockIdx.x} * blockDim.x + threadIdx.x;
  const int64_t at = thread / kQuantizeThreads;  // which 128 columns
  const int lane = static_cast<int>(threadIdx.x) % kQuantizeThreads;
  const int blocks = padded_128(hidden) / 128;
  const int column = static_cast<int>(at % blocks) * 128 + 8 * lane;
  uint4 bits = {0, 0, 0, 0};
  if (at < count && column < hidden)
    bits = *reinterpret_cast<const uint4*>(x + at / blocks * hidden + column);
  float values[8] = {};
  add_weighted(values, 1.0f, bits);
  float largest = 0;
#pragma unroll
  for (const float value : values) largest = fmaxf(largest, fabsf(value));
#pragma unroll
  for (int step = 1; step < kQuantizeThreads; step *= 2)
    largest = fmaxf(largest, __shfl_xor_sync(0xFFFFFFFFu, largest, step));
  if (at >= count) return;
  const float inverse = largest > 0 ? 448.0f / largest : 0.0f;
  to[thread] = {fp8_quad(values, inverse), fp8_quad(values + 4, inverse)};
  if (lane == 0) scales[at] = largest / 448.0f;
}

struct Launch {
  cudaLaunchAttribute attribute = {};
  cudaLaunchConfig_t config = {};
  Launch(int64_t blocks, int threads, bool follows, cudaStream_t stream) {
    attribute.id = cudaLaunchAttributeProgrammaticStreamSerialization;
    attribute.val.programmaticStreamSerializationAllowed = 1;
    config.gridDim = dim3(static_cast<unsigned>(blocks));
    config.blockDim = dim3(static_cast<unsigned>(threads));
    config.stream = stream;
    config.attrs = &attribute;
    config.numAttrs = follows ? 1 : 0;
  }
};

}  // namespace

cudaError_t quantize_tokens_fp8(const __nv_bfloat16* x, int tokens, int hidden, uint8_t* quantized,
                                float* scales, bool follows, cudaStream_t stream) {
  constexpr int kThreads = 256;
  const int64_t count = int64_t{tokens} * (padded_128(hidden) / 128);
  const int64_t blocks = (count * kQuantizeThreads + kThreads - 1) / kThreads;
  const Launch launch(blocks, kThreads, follows, stream);
  return cudaLaunchKernelEx(&launch.config, quantize_kernel, x, count, hidden,
                            reinterpret_cast<uint2*>(quantized), scales);
}

cudaError_t combine_parts(const PrefillExpertsArguments& arguments, int forms, const uint8_t* part,
                          cudaStream_t stream) {
  const int threads = std::min(256, ceil_div(arguments.hidden / 8, kWarp) * kWarp);
  const Launch launch(arguments.tokens, threads, true, stream);
  return cudaLaunchKernelEx(&launch.config, combine_kernel, arguments, forms,
                            reinterpret_cast<const uint4*>(part));
}

}  // namespace thermoe::cuda
