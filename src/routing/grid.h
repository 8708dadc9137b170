// The fixed grid on which the solver counts: sums on it are exact in double.
#pragma once

#include <algorithm>
#include <cmath>

namespace thermoe {

// Utilities, prices and multipliers are multiples of kGridStep. A sum of them is exact, hence
// independent of the order of tokens and experts, while it stays below 2^21 units.
inline constexpr double kGridStep = 0x1p-32;
inline constexpr double kLargestPrice = 0x1p20;    // a price above it counts as this
inline constexpr double kLargestUtility = 0x1p18;  // likewise: no batch comes near
inline constexpr double kNever = -0x1p60;          // the value of what cannot be chosen

// Nearest grid point of |value| < 2^19: adding 1.5 * 2^20 leaves no bit below the step.
inline double to_grid(double value) {
  constexpr double kShift = 0x1.8p20;
  return (value + kShift) - kShift;
}

// The grid point below: what is rounded so makes an upper bound looser, never wrong.
inline double price_to_grid(double price) {
  return std::floor(std::clamp(price, -kLargestPrice, kLargestPrice) / kGridStep) * kGridStep;
}

}  // namespace thermoe
