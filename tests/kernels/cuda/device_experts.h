// Experts in device memory for the tests of the CUDA kernels, and their float64 reference.
#pragma once

#include <cuda_bf16.h>

#include <cmath>
#include <cstdint>
#include <memory>
#include <vector>

#include "kernels/cpu/nested_pack.h"
#include "kernels/cuda/cuda_resources.h"
#include "kernels/cuda/decode_experts.h"
#include "kernels/nested_planes.h"
#include "kernels/reference.h"
#include "thermoe/nested_view.h"

namespace thermoe::test {

// One expert, random: on the device, and as the values that it stands for.
class TestExpert {
 public:
  TestExpert(cuda::ExpertForm form, int hidden, int inter, uint32_t seed)
      : form_(form), hidden_(hidden), inter_(inter) {
    form == cuda::ExpertForm::kBf16 ? make_bf16(seed) : make_nested(seed);
  }

  cuda::DeviceExpert device() const { return device_; }
  cuda::ExpertForm form() const { return form_; }

  // [hidden] of x [hidden]; the intermediate values rounded to bf16, as the kernel's are.
  std::vector<double> run(const float* x) const {
    std::vector<double> inner(static_cast<size_t>(inter_)), out(static_cast<size_t>(hidden_));
    for (int u = 0; u < inter_; ++u) {
      const double value = silu(row_dot(gate_, u, hidden_, x)) * row_dot(up_, u, hidden_, x);
      inner[static_cast<size_t>(u)] = __bfloat162float(__float2bfloat16(static_cast<float>(value)));
    }
    for (int r = 0; r < hidden_; ++r)
      for (int u = 0; u < inter_; ++u)
        out[static_cast<size_t>(r)] +=
            inner[static_cast<size_t>(u)] *
            static_cast<double>(down_[static_cast<size_t>(r * inter_ + u)]);
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
    return reinterpret_cast<uint8_t*>(buffers_.back().data());
  }

  void make_bf16(uint32_t seed) {
    const auto weight = [&](int rows, int cols, uint32_t which, std::vector<float>& values) {
      const StoredWeight w = random_weight(DType::kBf16, rows, cols, 3 * seed + which,
                                           1.0f / std::sqrt(static_cast<float>(cols)));
      values = w.floats;
      return reinterpret_cast<const __nv_bfloat16*>(keep(w.halves.data(), w.halves.size() * 2));
    };
    const size_t bytes = 2 * static_cast<size_t>(hidden_) * static_cast<size_t>(inter_);
    const __nv_bfloat16* gate = weight(inter_, hidden_, 0, gate_);
    const __nv_bfloat16* up = weight(inter_, hidden_, 1, up_);
    const __nv_bfloat16* down = weight(hidden_, inter_, 2, down_);
    uint8_t* to[4] = {room(bytes), room(bytes), room(bytes / 2), room(bytes / 2)};
    cuda::check(cuda::pack_gate_up(gate, up, hidden_, inter_, to[0], to[1], nullptr), "packing");
    cuda::check(cuda::pack_down(down, hidden_, inter_, to[2], to[3], nullptr), "packing");
    device_.form = form_;
    device_.gate_up.data = to[0];
    device_.gate_up.lo = to[1];
    device_.down.data = to[2];
    device_.down.lo = to[3];
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
  cuda::DeviceExpert device_;
  std::vector<cuda::DeviceBytes> buffers_;
};

}  // namespace thermoe::test
