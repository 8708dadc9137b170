// Kriging (Gaussian process regression with fixed covariance) over a few hundred points.
#pragma once

#include <Eigen/Dense>
#include <vector>

namespace thermoe::cost {

// The covariance of two points: smooth locally, with a linear trend, and alike within a family.
//   near^2 exp(-1/2 sum ((a_i - b_i) / length_i)^2) + trend^2 (1 + a.b / 9) + family^2 [same
//   family]
struct Covariance {
  std::vector<double> length;  // one per feature
  double near = 0.25, trend = 0.1, family = 0.05;
  double noise = 0.04;  // standard deviation of what no feature explains
};

// Its adjustable parts in one list, for fitting and for files: the lengths, then near, trend,
// family, noise.
std::vector<double> parts_of(const Covariance& covariance);
Covariance covariance_from(const std::vector<double>& parts);

struct KrigingPoint {
  std::vector<double> features;
  int family = -1;  // -1: of no family that was seen
};

// Predicts vectors (all outputs share the covariance) from those at known points. Immutable.
class Kriging {
 public:
  // `values`: one row per point. At least one point; every point has covariance.length features.
  Kriging(const std::vector<KrigingPoint>& points, const Eigen::MatrixXd& values,
          Covariance covariance);

  struct Prediction {
    Eigen::VectorXd value;
    double deviation = 0;  // one standard deviation, by the covariance
    double nearest = 0;    // correlation of the nearest point's smooth part, 0 to 1
  };
  Prediction at(const KrigingPoint& point) const;
  // What the other points alone predict at point i.
  Prediction without(size_t i) const;
  // What the points outside `group` (indices) predict inside it: a row per member.
  Eigen::MatrixXd without(const std::vector<size_t>& group) const;
  // Of each output over all points.
  const Eigen::VectorXd& median() const { return median_; }

 private:
  double covariance_of(const Eigen::VectorXd& a, int family_a, size_t b) const;
  double smooth_of(const Eigen::VectorXd& a, size_t b) const;
  Eigen::VectorXd centred(const std::vector<double>& features) const;

  Covariance covariance_;
  Eigen::VectorXd centre_;
  Eigen::MatrixXd features_;  // a column per point, centred
  std::vector<int> families_;
  Eigen::VectorXd median_;
  Eigen::MatrixXd values_;   // less the median
  Eigen::MatrixXd inverse_;  // of the covariance matrix with noise
  Eigen::MatrixXd weighted_;
};

}  // namespace thermoe::cost
