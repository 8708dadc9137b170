// Least squares with three nonnegative coefficients.
#pragma once

#include <array>
#include <vector>

namespace thermoe::cost {

struct FitPoint {
  std::array<double, 3> x;
  double y;
};

// The c >= 0 that minimises sum (c . x - y)^2, exactly: the best of the solutions over all subsets
// of the coefficients (the optimum of this convex problem is one of them).
std::array<double, 3> fit_nonnegative(const std::vector<FitPoint>& points);

}  // namespace thermoe::cost
