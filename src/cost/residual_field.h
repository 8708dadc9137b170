// Measured curves over tokens, as logarithms of the ratio to a roofline: interpolated along a curve
// that was measured, and carried over to shapes that were not.
#pragma once

#include <optional>
#include <vector>

#include "cost/kriging.h"

namespace thermoe::cost {

// Immutable after construction.
class ResidualField {
 public:
  // grid: rising token counts; residuals: a row per point, NaN where not measured (at least one
  // value a row).
  ResidualField(std::vector<double> grid, const std::vector<KrigingPoint>& points,
                const Eigen::MatrixXd& residuals, const Covariance& covariance);

  struct Reading {
    double value = 0;
    double deviation = 0;  // one standard deviation of the value
    bool exact = false;    // measured at these tokens
    bool beyond = false;   // outside the range of tokens
    double nearest = 1;    // correlation of the nearest measured shape, 0 to 1
  };
  // Along the curve of a measured point.
  Reading along(size_t point, double tokens) const;
  // As along(), had the point's value at grid index `hidden` not been measured.
  Reading along_without(size_t point, size_t hidden) const;
  // At a shape that was not measured: once a shape, and then at any tokens.
  Kriging::Prediction predict(const KrigingPoint& point) const { return kriging_->at(point); }
  Reading read(const Kriging::Prediction& prediction, double tokens) const;
  // Median over the points of the deviation with which the others predict it.
  double deviation() const { return deviation_; }
  // Mean absolute residual where each group of points (indices) is predicted by the points outside
  // it.
  double held_out_error(const std::vector<std::vector<size_t>>& groups) const;
  const std::vector<double>& grid() const { return grid_; }

 private:
  Eigen::MatrixXd filled_residuals() const;
  Reading interpolate(size_t point, double tokens, const std::vector<size_t>& known) const;
  double prior_at(size_t point, double tokens) const;

  std::vector<double> grid_, log_grid_;
  Eigen::MatrixXd residuals_;                  // NaN where not measured
  std::vector<std::vector<size_t>> measured_;  // grid indices, per point
  Eigen::MatrixXd prior_;                      // what the other points say of each
  std::optional<Kriging> kriging_;
  double deviation_ = 0;
};

}  // namespace thermoe::cost
