// Nested planes back to bf16, for products of many tokens, where arithmetic costs more than bytes.
#pragma once

#include "kernels/cuda/decode_experts.h"

namespace thermoe::cuda {

// What unpack_experts() writes of an instance.
constexpr size_t unpacked_bytes(int hidden, int inter) {
  return size_t{6} * static_cast<size_t>(hidden) * static_cast<size_t>(inter);
}

// to [I] = the experts with those in nested planes that have tokens (offsets [I + 1]) as bf16 in
// `scratch`, instance i at i * unpacked_bytes(); others as they are. int8 reads both planes, int4
// the first; a value is rounded to bf16. Everything in device memory, capturable. hidden and inter
// multiples of 32, scratch aligned to 16 bytes.
cudaError_t unpack_experts(const DeviceExpert* experts, const int32_t* offsets, int instances,
                           int hidden, int inter, DeviceExpert* to, uint8_t* scratch,
                           cudaStream_t stream);

}  // namespace thermoe::cuda
