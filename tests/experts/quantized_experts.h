// Random quantised experts.
#pragma once

#include <cmath>
#include <cstddef>

#include "kernels/nested_planes.h"
#include "kernels/reference.h"
#include "thermoe/quantized_expert.h"

namespace thermoe::test {

struct RandomExpert {
  RandomExpert(int64_t hidden, int64_t inter, uint32_t seed, int32_t ratio)
      : gate(random_planes(inter, hidden, seed)),
        up(random_planes(inter, hidden, seed + 1)),
        gate_up(cpu::pack_nested(cpu::join_gate_up(gate, up))),
        down(cpu::pack_nested(random_planes(hidden, inter, seed + 2))),
        plane_ratio(ratio),
        base(0.02f / std::sqrt(static_cast<float>(hidden)) / static_cast<float>(ratio)) {}
  QuantizedExpert expert() const {
    return {gate_up.view(base, plane_ratio), down.view(base, plane_ratio)};
  }
  // The dequantised weight of natural planes.
  StoredWeight stored(const cpu::PackedPlanes& packed, Planes planes) const {
    StoredWeight w;
    w.rows = packed.rows;
    w.cols = packed.cols;
    w.floats.resize(static_cast<size_t>(w.rows * w.cols));
    cpu::dequantize_nested(packed.view(base, plane_ratio), planes,
                           Matrix(w.floats.data(), w.rows, w.cols));
    return w;
  }

  cpu::NaturalPlanes gate, up;
  cpu::PackedPlanes gate_up, down;
  int32_t plane_ratio;
  float base;
};

// Bytes aligned to 64.
class Scratch {
 public:
  explicit Scratch(size_t bytes) : bytes_(bytes + 64) {}
  std::byte* data() {
    const auto at = reinterpret_cast<uintptr_t>(bytes_.data());
    return bytes_.data() + (64 - at % 64) % 64;
  }

 private:
  std::vector<std::byte> bytes_;
};

}  // namespace thermoe::test
