// Robust least squares for a handful of positive parameters.
#pragma once

#include <Eigen/Dense>
#include <functional>
#include <vector>

namespace thermoe::cost {

struct RobustFitSettings {
  double scale = 0.1;  // residuals well above it count linearly, not squared (soft L1)
  double prior_weight =
      1;  // pull of each parameter's logarithm to its start, in residuals of `scale`
  double most_factor = 1e3;  // a parameter stays within this factor of its start
};

// The positive parameters that make residuals(parameters, out) small, from `start` (all positive).
// `count` residuals. Levenberg-Marquardt on the parameters' logarithms, derivatives by differences.
std::vector<double> fit_robust(
    const std::vector<double>& start, Eigen::Index count,
    const std::function<void(const std::vector<double>&, Eigen::VectorXd&)>& residuals,
    const RobustFitSettings& settings = {});

}  // namespace thermoe::cost
