// Random weights of a layer's experts in device memory, for timing. Only for builds with CUDA.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "cost/kernel_shape.h"
#include "kernels/cuda/cuda_resources.h"
#include "kernels/cuda/decode_experts.h"

namespace thermoe::app {

// Throws InvalidArgument listing the types that the kernels have.
cuda::ExpertForm expert_form(const std::string& dtype);
// Bytes that one expert's weights take, in whole pieces.
int64_t expert_bytes(const cost::KernelShape& shape, cuda::ExpertForm form);

// Device memory filled with a run of random values, repeated.
class RandomBlock {
 public:
  // At least so many bytes; what was there may move.
  void grow(size_t bytes, const std::vector<uint8_t>& run);
  const std::byte* data() const { return memory_.data(); }
  size_t bytes() const { return memory_.bytes(); }

 private:
  cuda::DeviceBytes memory_;
};

// Layers of experts, all in one form. They lie in a block of memory that is filled once and grows;
// another shape or form only divides it otherwise: no kernel can tell. Of fp8, whose scales have
// to fit, each is packed from random bf16.
class GpuWeights {
 public:
  // So many layers that together they hold at least `least_bytes`, one at least.
  void divide(const cost::KernelShape& shape, cuda::ExpertForm form, int64_t least_bytes);

  // A layer's experts from expert `at` on, at < positions(), the first layer following the last.
  const cuda::DeviceExpert* experts(int64_t at) const { return table_.data() + at; }
  int64_t positions() const { return positions_; }  // experts of all layers

 private:
  // The experts at all positions.
  std::vector<cuda::DeviceExpert> placed(const cost::KernelShape& shape, cuda::ExpertForm form);
  std::vector<cuda::DeviceExpert> packed_fp8(const cost::KernelShape& shape);
  void grow_bf16(size_t bytes);

  RandomBlock bf16_, nested_;
  cuda::DeviceBytes fp8_;
  cuda::DeviceArray<cuda::DeviceExpert> table_;
  int64_t positions_ = 0;
};

// `count` values of bf16 as bytes, normally distributed.
std::vector<uint8_t> random_bf16(size_t count, float deviation);

}  // namespace thermoe::app
