#include "model/finite.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>
#include <cstring>

namespace thermoe {
namespace {

float f32_of_f16(uint16_t half) {
  const uint32_t sign = static_cast<uint32_t>(half & 0x8000u) << 16;
  const uint32_t exponent = (half >> 10) & 0x1fu;
  const uint32_t mantissa = half & 0x3ffu;
  if (exponent == 0x1f) return std::bit_cast<float>(sign | 0x7f800000u | mantissa << 13);
  if (exponent == 0) {  // zero or subnormal: mantissa x 2^-24
    const float magnitude = std::ldexp(static_cast<float>(mantissa), -24);
    return sign != 0 ? -magnitude : magnitude;
  }
  return std::bit_cast<float>(sign | (exponent + 112) << 23 | mantissa << 13);  // 112 = 127 - 15
}

template <typename Bits>
Bits load(const void* data, size_t index) {
  Bits bits;
  std::memcpy(&bits, static_cast<const std::byte*>(data) + index * sizeof(Bits), sizeof(Bits));
  return bits;
}

float element(const void* data, DType dtype, size_t index) {
  switch (dtype) {
    case DType::kF32:
      return load<float>(data, index);
    case DType::kF16:
      return f32_of_f16(load<uint16_t>(data, index));
    case DType::kBf16:
      return std::bit_cast<float>(static_cast<uint32_t>(load<uint16_t>(data, index)) << 16);
  }
  return 0;
}

// Not finite: all exponent bits set. Blocks first, without a branch inside, so that the compiler
// vectorises; then the element within the block.
template <typename Bits>
size_t first_with_all_bits(const void* data, size_t count, Bits exponent) {
  constexpr size_t kBlock = 4096;
  for (size_t begin = 0; begin < count; begin += kBlock) {
    const size_t end = std::min(count, begin + kBlock);
    Bits found = 0;
    for (size_t i = begin; i < end; ++i) {
      const bool all = (load<Bits>(data, i) & exponent) == exponent;
      found = static_cast<Bits>(found | static_cast<Bits>(all));
    }
    if (found == 0) continue;
    for (size_t i = begin; i < end; ++i) {
      if ((load<Bits>(data, i) & exponent) == exponent) return i;
    }
  }
  return count;
}

}  // namespace

void to_f32(const void* data, DType dtype, std::span<float> out) {
  for (size_t i = 0; i < out.size(); ++i) out[i] = element(data, dtype, i);
}

size_t first_not_finite(const void* data, DType dtype, size_t count) {
  switch (dtype) {
    case DType::kF32:
      return first_with_all_bits<uint32_t>(data, count, 0x7f800000u);
    case DType::kF16:
      return first_with_all_bits<uint16_t>(data, count, 0x7c00u);
    case DType::kBf16:
      return first_with_all_bits<uint16_t>(data, count, 0x7f80u);
  }
  return count;
}

bool is_nan(const void* data, DType dtype, size_t index) {
  return std::isnan(element(data, dtype, index));
}

}  // namespace thermoe
