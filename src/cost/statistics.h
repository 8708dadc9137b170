// Medians, for fits that a few bad values must not move.
#pragma once

#include <algorithm>
#include <cstddef>
#include <vector>

namespace thermoe::cost {

// The upper median. At least one value.
inline double median_of(std::vector<double> values) {
  const auto middle = values.begin() + static_cast<std::ptrdiff_t>(values.size() / 2);
  std::nth_element(values.begin(), middle, values.end());
  return *middle;
}

}  // namespace thermoe::cost
