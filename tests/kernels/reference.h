// Plain scalar float64 references for the kernels, and data to run them on. The same cases serve
// the CPU kernels and, later, those of the GPU.
#pragma once

#include <cmath>
#include <cstring>
#include <random>
#include <vector>

#include "thermoe/views.h"

namespace thermoe::test {

// A stored weight and the exact values that it holds.
struct StoredWeight {
  std::vector<uint16_t> halves;
  std::vector<float> floats;  // what is stored, widened
  DType dtype = DType::kF32;
  int64_t rows = 0, cols = 0;

  WeightView view() const {
    const void* data = dtype == DType::kF32 ? static_cast<const void*>(floats.data())
                                            : static_cast<const void*>(halves.data());
    return {data, dtype, rows, cols};
  }
  double at(int64_t r, int64_t c) const { return floats[static_cast<size_t>(r * cols + c)]; }
};

// binary16 with 10 bits of fraction, from its bits (normal and zero only).
inline float widen_f16(uint16_t bits) {
  const int exponent = bits >> 10 & 31;
  const float sign = (bits & 0x8000) != 0 ? -1.0f : 1.0f;
  if (exponent == 0) return sign * std::ldexp(static_cast<float>(bits & 1023), -24);
  return sign * std::ldexp(1.0f + static_cast<float>(bits & 1023) / 1024.0f, exponent - 15);
}

// A weight [rows, cols] of about the given spread; every value is representable in `dtype`. The
// vectors hold no element more than the weight, so that a sanitizer sees reads past its end.
inline StoredWeight random_weight(DType dtype, int64_t rows, int64_t cols, uint32_t seed,
                                  float spread = 1.0f) {
  std::mt19937 generator(seed);
  std::normal_distribution<float> normal(0.0f, spread);
  StoredWeight weight;
  weight.dtype = dtype;
  weight.rows = rows;
  weight.cols = cols;
  for (int64_t i = 0; i < rows * cols; ++i) {
    float value = normal(generator);
    if (dtype == DType::kBf16) {
      uint32_t bits;
      std::memcpy(&bits, &value, 4);
      weight.halves.push_back(static_cast<uint16_t>(bits >> 16));
      bits &= 0xffff0000u;
      std::memcpy(&value, &bits, 4);
    } else if (dtype == DType::kF16) {
      // Cut to 11 significant bits, and away from binary16's small numbers.
      int exponent = 0;
      const float fraction = std::frexp(value, &exponent);  // in [0.5, 1)
      const auto kept = static_cast<int>(std::fabs(fraction) * 2048.0f);
      if (exponent < -12 || kept < 1024) {
        weight.halves.push_back(0);
      } else {
        weight.halves.push_back(static_cast<uint16_t>((value < 0 ? 0x8000 : 0) |
                                                      ((exponent + 14) << 10) | (kept - 1024)));
      }
      value = widen_f16(weight.halves.back());
    }
    weight.floats.push_back(value);
  }
  return weight;
}

inline std::vector<float> random_floats(int64_t count, uint32_t seed, float spread = 1.0f) {
  std::mt19937 generator(seed);
  std::normal_distribution<float> normal(0.0f, spread);
  std::vector<float> values(static_cast<size_t>(count));
  for (float& value : values) value = normal(generator);
  return values;
}

inline double silu(double g) { return g / (1.0 + std::exp(-g)); }

// x [cols] . row r of w.
inline double dot(const float* x, const StoredWeight& w, int64_t r) {
  double sum = 0;
  for (int64_t c = 0; c < w.cols; ++c) sum += static_cast<double>(x[c]) * w.at(r, c);
  return sum;
}

// down(silu(gate x) * up x)
inline std::vector<double> expert(const float* x, const StoredWeight& gate, const StoredWeight& up,
                                  const StoredWeight& down) {
  std::vector<double> inner(static_cast<size_t>(gate.rows)), out(static_cast<size_t>(down.rows));
  for (int64_t i = 0; i < gate.rows; ++i)
    inner[static_cast<size_t>(i)] = silu(dot(x, gate, i)) * dot(x, up, i);
  for (int64_t o = 0; o < down.rows; ++o)
    for (int64_t i = 0; i < down.cols; ++i)
      out[static_cast<size_t>(o)] += inner[static_cast<size_t>(i)] * down.at(o, i);
  return out;
}

}  // namespace thermoe::test
