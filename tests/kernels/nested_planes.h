// Random nested planes for the tests of what reads them.
#pragma once

#include <random>

#include "kernels/cpu/nested_pack.h"

namespace thermoe::test {

constexpr uint8_t kUnitScale = 0x30;  // nested_scale() of it is 1

// Scales between 1/2 and 8 in magnitude, of both signs.
inline cpu::NaturalPlanes random_planes(int64_t rows, int64_t cols, uint32_t seed) {
  std::mt19937 generator(seed);
  std::uniform_int_distribution<int> nibble(-8, 7), scale(0x20, 0x5F), sign(0, 1);
  cpu::NaturalPlanes planes{rows, cols, {}, {}, {}};
  for (int64_t i = 0; i < rows * cols; ++i) {
    planes.hi.push_back(static_cast<int8_t>(nibble(generator)));
    planes.lo.push_back(static_cast<int8_t>(nibble(generator)));
  }
  for (int64_t i = 0; i < rows * planes.groups(); ++i)
    planes.scales.push_back(static_cast<uint8_t>(scale(generator) | sign(generator) << 7));
  return planes;
}

}  // namespace thermoe::test
