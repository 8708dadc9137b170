// Experts in device memory for the tests of the CUDA kernels, and their float64 reference.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp8.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <memory>
#include <vector>

#include "kernels/cpu/nested_pack.h"
#include "kernels/cuda/cuda_resources.h"
#include "kernels/cuda/prefill_experts.h"
#include "kernels/nested_planes.h"
#include "kernels/reference.h"
#include "thermoe/nested_view.h"

namespace thermoe::test {

// Each run of `block` values rounded to e4m3 at the scale amax / 448, as fp8 kernels do.
inline void round_to_fp8(float* values, int count, int block) {
  for (int first = 0; first < count; first += block) {
    const int end = std::min(count, first + block);
    float largest = 0;
    for (int i = first; i < end; ++i) largest = std::max(largest, std::abs(values[i]));
    const float inverse = largest > 0 ? 448.0f / largest : 0.0f;
    for (int i = first; i < end; ++i)
      values[i] = static_cast<float>(__nv_fp8_e4m3(values[i] * inverse)) * (largest / 448.0f);
  }
}

// One expert, random: on the device, and as the values that it stands for.
class TestExpert {
 public:
  TestExpert(cuda::ExpertForm form, int hidden, int inter, uint32_t seed)
      : form_(form), hidden_(hidden), inter_(inter) {
    if (form == cuda::ExpertForm::kBf16)
      make_bf16(seed);
    else if (form == cuda::ExpertForm::kFp8)
      make_fp8(seed);
    else
      make_nested(seed);
  }

  cuda::DeviceExpert device() const { return device_; }
  cuda::ExpertForm form() const { return form_; }

  // [hidden] of x [hidden]; x (fp8) and the intermediate values rounded as the kernels' are.
  std::vector<double> run(const float* x) const {
    std::vector<float> rounded(x, x + hidden_), inner(static_cast<size_t>(inter_));
    const bool fp8 = form_ == cuda::ExpertForm::kFp8;
    if (fp8) round_to_fp8(rounded.data(), hidden_, 128);
    for (int u = 0; u < inter_; ++u) {
      const double gate = row_dot(gate_, u, hidden_, rounded.data());
      const auto value = static_cast<float>(silu(gate) * row_dot(up_, u, hidden_, rounded.data()));
      inner[static_cast<size_t>(u)] = fp8 ? value : __bfloat162float(__float2bfloat16(value));
    }
    if (fp8) round_to_fp8(inner.data(), inter_, 128);
    std::vector<double> out;
    for (int r = 0; r < hidden_; ++r) out.push_back(row_dot(down_, r, inter_, inner.data()));
    return out;
  }

  // The same of the bf16 weights that fp8 ones were made of, x not rounded.
  std::vector<double> run_unquantized(const float* x) const {
    std::vector<float> inner;
    for (int u = 0; u < inter_; ++u)
      inner.push_back(static_cast<float>(silu(row_dot(exact_[0], u, hidden_, x)) *
                                         row_dot(exact_[1], u, hidden_, x)));
    std::vector<double> out;
    for (int r = 0; r < hidden_; ++r) out.push_back(row_dot(exact_[2], r, inter_, inner.data()));
    return out;
  }

 private:
  static double row_dot(const std::vector<float>& w, int row, int cols, const float* x) {
    double sum = 0;
    for (int c = 0; c < cols; ++c)
      sum +=
          static_cast<double>(w[static_cast<size_t>(row * cols + c)]) * static_cast<double>(x[c]);
    return sum;
  }

  const uint8_t* keep(const void* host, size_t bytes) {
    buffers_.emplace_back(bytes);
    buffers_.back().upload(host, bytes);
    return reinterpret_cast<const uint8_t*>(buffers_.back().data());
  }

  uint8_t* room(size_t bytes) {
    buffers_.emplace_back(bytes);
    buffers_.back().fill(0xFF);
    return reinterpret_cast<uint8_t*>(buffers_.back().data());
  }

  const __nv_bfloat16* random_bf16(int rows, int cols, uint32_t seed, std::vector<float>& values) {
    const StoredWeight w =
        random_weight(DType::kBf16, rows, cols, seed, 1.0f / std::sqrt(static_cast<float>(cols)));
    values = w.floats;
    return reinterpret_cast<const __nv_bfloat16*>(keep(w.halves.data(), w.halves.size() * 2));
  }

  void make_bf16(uint32_t seed) {
    const size_t bytes = 2 * static_cast<size_t>(hidden_) * static_cast<size_t>(inter_);
    const __nv_bfloat16* gate = random_bf16(inter_, hidden_, 3 * seed, gate_);
    const __nv_bfloat16* up = random_bf16(inter_, hidden_, 3 * seed + 1, up_);
    const __nv_bfloat16* down = random_bf16(hidden_, inter_, 3 * seed + 2, down_);
    uint8_t* to[4] = {room(bytes), room(bytes), room(bytes / 2), room(bytes / 2)};
    cuda::check(cuda::pack_gate_up(gate, up, hidden_, inter_, to[0], to[1], nullptr), "packing");
    cuda::check(cuda::pack_down(down, hidden_, inter_, to[2], to[3], nullptr), "packing");
    device_.form = form_;
    device_.gate_up.data = to[0];
    device_.gate_up.lo = to[1];
    device_.down.data = to[2];
    device_.down.lo = to[3];
  }

  void make_fp8(uint32_t seed) {
    const __nv_bfloat16* gate = random_bf16(inter_, hidden_, 3 * seed, gate_);
    const __nv_bfloat16* up = random_bf16(inter_, hidden_, 3 * seed + 1, up_);
    const __nv_bfloat16* down = random_bf16(hidden_, inter_, 3 * seed + 2, down_);
    exact_ = {gate_, up_, down_};
    round_to_fp8(gate_.data(), hidden_ * inter_, hidden_);
    round_to_fp8(up_.data(), hidden_ * inter_, hidden_);
    round_to_fp8(down_.data(), hidden_ * inter_, inter_);
    const size_t units = static_cast<size_t>(cuda::padded_128(inter_));
    const size_t bytes = units * static_cast<size_t>(cuda::padded_128(hidden_));
    uint8_t* to[4] = {room(bytes), room(bytes), room(bytes / 2), room(bytes / 2)};
    uint8_t* scales[2] = {room(2 * units * 4), room(static_cast<size_t>(hidden_) * 4)};
    cuda::check(cuda::pack_gate_up_fp8(gate, up, hidden_, inter_, to[0], to[1],
                                       reinterpret_cast<float*>(scales[0]), nullptr),
                "packing");
    cuda::check(cuda::pack_down_fp8(down, hidden_, inter_, to[2], to[3],
                                    reinterpret_cast<float*>(scales[1]), nullptr),
                "packing");
    device_.form = form_;
    device_.gate_up.data = to[0];
    device_.gate_up.lo = to[1];
    device_.gate_up.scales = scales[0];
    device_.down.data = to[2];
    device_.down.lo = to[3];
    device_.down.scales = scales[1];
  }

  cuda::DeviceWeight upload(const cpu::PackedPlanes& planes, float base, int ratio) {
    cuda::DeviceWeight d;
    d.data = keep(planes.hi.data(), planes.hi.size());
    d.lo = keep(planes.lo.data(), planes.lo.size());
    d.scales = keep(planes.scales.data(), planes.scales.size());
    d.base = base;
    d.plane_ratio = static_cast<float>(ratio);
    return d;
  }

  void make_nested(uint32_t seed) {
    constexpr int kRatio = 12;
    const Planes planes = form_ == cuda::ExpertForm::kInt8 ? Planes::kBoth : Planes::kHi;
    const auto base_of = [](int cols) { return 0.005f / std::sqrt(static_cast<float>(cols)); };
    const auto values = [&](const NestedView& w, std::vector<float>& to) {
      to.resize(static_cast<size_t>(w.rows * w.cols));
      cpu::dequantize_nested(w, planes, Matrix(to.data(), w.rows, w.cols));
    };
    const cpu::NaturalPlanes gate = random_planes(inter_, hidden_, 3 * seed);
    const cpu::NaturalPlanes up = random_planes(inter_, hidden_, 3 * seed + 1);
    const cpu::PackedPlanes down = pack_nested(random_planes(hidden_, inter_, 3 * seed + 2));
    values(pack_nested(gate).view(base_of(hidden_), kRatio), gate_);
    values(pack_nested(up).view(base_of(hidden_), kRatio), up_);
    values(down.view(base_of(inter_), kRatio), down_);
    device_.form = form_;
    device_.gate_up = upload(pack_nested(cpu::join_gate_up(gate, up)), base_of(hidden_), kRatio);
    device_.down = upload(down, base_of(inter_), kRatio);
  }

  cuda::ExpertForm form_;
  int hidden_, inter_;
  std::vector<float> gate_, up_, down_;
  std::vector<std::vector<float>> exact_;  // fp8: gate, up and down before
  cuda::DeviceExpert device_;
  std::vector<cuda::DeviceBytes> buffers_;
};

}  // namespace thermoe::test
