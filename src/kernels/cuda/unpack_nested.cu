// A warp a block of 32 rows by 32 columns: planes in the order of thermoe/nested_view.h to the bf16
// order of pack_gate_up() and pack_down(), which differ in nothing but the type: a lane's words are
// its own vectors. blockIdx.y is the instance; one without tokens costs a launch of empty blocks.
//   bytes of an expert: hidden inter (3 * 33/32 both planes, 3 * 17/32 one) read, 6 written
// Reference: the float64 values of the planes, rounded
// (tests/kernels/cuda/prefill_experts_test.cpp).
#include "kernels/cuda/decode_tile.cuh"
#include "kernels/cuda/unpack_nested.h"

namespace thermoe::cuda {
namespace {

constexpr int kThreads = 256, kWarps = kThreads / kWarp;

__device__ inline float2 two_floats(uint32_t pair) {
  return __bfloat1622float2(*reinterpret_cast<const __nv_bfloat162*>(&pair));
}

// Values of one word of each plane: rows g (words 0 and 2 of the result) and g + 8 (1 and 3).
__device__ inline void unpack_word(uint32_t hi, uint32_t lo, bool both, float ratio,
                                   uint32_t exponents, float2 scale, uint32_t (&to)[4]) {
  constexpr float kBias = 136;
  uint32_t a[4], b[4];
  unpack(hi, exponents, a);
  unpack(lo, exponents, b);
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    float2 value = two_floats(a[i]);
    value.x = ratio * (value.x - kBias);
    value.y = ratio * (value.y - kBias);
    if (both) {
      const float2 fine = two_floats(b[i]);
      value.x += fine.x - kBias;
      value.y += fine.y - kBias;
    }
    const float s = i % 2 == 0 ? scale.x : scale.y;
    const __nv_bfloat162 pair = __floats2bfloat162_rn(value.x * s, value.y * s);
    to[i] = *reinterpret_cast<const uint32_t*>(&pair);
  }
}

// Block `block` of a matrix of `groups` columns of blocks.
__device__ void unpack_block(const DeviceWeight& w, bool both, int64_t block, int groups, int lane,
                             uint8_t* data, uint8_t* lower) {
  const uint4 hi = *reinterpret_cast<const uint4*>(w.data + block * kBlockBytes + lane * 16);
  const uint4 lo =
      both ? *reinterpret_cast<const uint4*>(w.lo + block * kBlockBytes + lane * 16) : uint4{};
  float2 scales[2];
  decode_scales(
      *reinterpret_cast<const uint32_t*>(w.scales + block * kScaleBlockBytes + lane / 4 * 4),
      scales);
  const uint32_t exponents = exponents_of_128();
  const float unit = w.base * kScaleUnit;
  const int64_t row_block = block / groups, group = block % groups;
#pragma unroll
  for (int m = 0; m < 2; ++m) {
    const float2 scale = {scales[m].x * unit, scales[m].y * unit};
    uint32_t first[4], second[4];
    unpack_word(m == 0 ? hi.x : hi.y, m == 0 ? lo.x : lo.y, both, w.plane_ratio, exponents, scale,
                first);
    unpack_word(m == 0 ? hi.z : hi.w, m == 0 ? lo.z : lo.w, both, w.plane_ratio, exponents, scale,
                second);
    const int64_t at = ((2 * row_block + m) * groups + group) * kBlockBytes + swizzled(lane) * 16;
    *reinterpret_cast<uint4*>(data + at) = {first[0], first[2], second[0], second[2]};
    *reinterpret_cast<uint4*>(lower + at) = {first[1], first[3], second[1], second[3]};
  }
}

__global__ void __launch_bounds__(kThreads)
    unpack_kernel(const DeviceExpert* experts, const int32_t* offsets, int hidden, int inter,
                  DeviceExpert* to, uint8_t* scratch) {
  const int instance = static_cast<int>(blockIdx.y);
  const DeviceExpert expert = experts[instance];
  const bool nested = expert.form == ExpertForm::kInt8 || expert.form == ExpertForm::kInt4;
  const int64_t values = int64_t{hidden} * inter;
  uint8_t* gate_up = scratch + int64_t{instance} * 6 * values;
  uint8_t* down = gate_up + 4 * values;
  if (blockIdx.x == 0 && threadIdx.x == 0) {
    DeviceExpert unpacked = expert;
    if (nested) {
      unpacked.form = ExpertForm::kBf16;
      unpacked.gate_up = {gate_up, gate_up + 2 * values};
      unpacked.down = {down, down + values};
    }
    to[instance] = unpacked;
  }
  if (!nested || offsets[instance + 1] == offsets[instance]) return;
  const bool both = expert.form == ExpertForm::kInt8;
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  const int64_t warp = int64_t{blockIdx.x} * kWarps + threadIdx.x / kWarp;
  const int64_t step = int64_t{gridDim.x} * kWarps;
  const int64_t up_blocks = 2 * values / (kGroup * kGroup), all = up_blocks * 3 / 2;
  for (int64_t b = warp; b < all; b += step) {
    if (b < up_blocks)
      unpack_block(expert.gate_up, both, b, hidden / kGroup, lane, gate_up, gate_up + 2 * values);
    else
      unpack_block(expert.down, both, b - up_blocks, inter / kGroup, lane, down, down + values);
  }
}

}  // namespace

cudaError_t unpack_experts(const DeviceExpert* experts, const int32_t* offsets, int instances,
                           int hidden, int inter, DeviceExpert* to, uint8_t* scratch,
                           cudaStream_t stream) {
  if (instances < 1 || instances > kMostInstances || hidden < kGroup || inter < kGroup ||
      hidden % kGroup != 0 || inter % kGroup != 0)
    return cudaErrorInvalidValue;
  constexpr unsigned kBlocks = 16;  // an instance: some waves of blocks in all
  unpack_kernel<<<dim3(kBlocks, static_cast<unsigned>(instances)), kThreads, 0, stream>>>(
      experts, offsets, hidden, inter, to, scratch);
  return cudaGetLastError();
}

}  // namespace thermoe::cuda
