#include "cost/kriging.h"

#include <algorithm>
#include <cmath>

#include "cost/statistics.h"

namespace thermoe::cost {

std::vector<double> parts_of(const Covariance& covariance) {
  std::vector<double> parts = covariance.length;
  for (double part : {covariance.near, covariance.trend, covariance.family, covariance.noise})
    parts.push_back(part);
  return parts;
}

Covariance covariance_from(const std::vector<double>& parts) {
  Covariance covariance;
  const auto lengths = parts.end() - 4;
  covariance.length.assign(parts.begin(), lengths);
  covariance.near = lengths[0];
  covariance.trend = lengths[1];
  covariance.family = lengths[2];
  covariance.noise = lengths[3];
  return covariance;
}

Kriging::Kriging(const std::vector<KrigingPoint>& points, const Eigen::MatrixXd& values,
                 Covariance covariance)
    : covariance_(std::move(covariance)) {
  const auto n = static_cast<Eigen::Index>(points.size());
  const auto d = static_cast<Eigen::Index>(covariance_.length.size());
  features_.resize(d, n);
  for (Eigen::Index i = 0; i < n; ++i)
    for (Eigen::Index j = 0; j < d; ++j)
      features_(j, i) = points[static_cast<size_t>(i)].features[static_cast<size_t>(j)];
  centre_ = features_.rowwise().mean();
  features_.colwise() -= centre_;
  for (const KrigingPoint& point : points) families_.push_back(point.family);

  median_.resize(values.cols());
  for (Eigen::Index c = 0; c < values.cols(); ++c)
    median_(c) = median_of({values.col(c).begin(), values.col(c).end()});
  values_ = values.rowwise() - median_.transpose();

  Eigen::MatrixXd matrix(n, n);
  for (Eigen::Index i = 0; i < n; ++i) {
    for (Eigen::Index j = 0; j <= i; ++j)
      matrix(i, j) = matrix(j, i) = covariance_of(
          features_.col(i), families_[static_cast<size_t>(i)], static_cast<size_t>(j));
    matrix(i, i) += covariance_.noise * covariance_.noise;
  }
  inverse_ = matrix.llt().solve(Eigen::MatrixXd::Identity(n, n));
  weighted_ = inverse_ * values_;
}

Eigen::VectorXd Kriging::centred(const std::vector<double>& features) const {
  return Eigen::Map<const Eigen::VectorXd>(features.data(),
                                           static_cast<Eigen::Index>(features.size())) -
         centre_;
}

double Kriging::smooth_of(const Eigen::VectorXd& a, size_t b) const {
  double squares = 0;
  for (Eigen::Index j = 0; j < a.size(); ++j) {
    const double step = (a(j) - features_(j, static_cast<Eigen::Index>(b))) /
                        covariance_.length[static_cast<size_t>(j)];
    squares += step * step;
  }
  return std::exp(-squares / 2);
}

double Kriging::covariance_of(const Eigen::VectorXd& a, int family_a, size_t b) const {
  const double dot = a.dot(features_.col(static_cast<Eigen::Index>(b)));
  const double same = family_a >= 0 && family_a == families_[b] ? 1 : 0;
  return covariance_.near * covariance_.near * smooth_of(a, b) +
         covariance_.trend * covariance_.trend * (1 + dot / 9) +
         covariance_.family * covariance_.family * same;
}

Kriging::Prediction Kriging::at(const KrigingPoint& point) const {
  const Eigen::VectorXd x = centred(point.features);
  const auto n = features_.cols();
  Eigen::VectorXd k(n);
  Prediction out;
  for (Eigen::Index i = 0; i < n; ++i) {
    k(i) = covariance_of(x, point.family, static_cast<size_t>(i));
    out.nearest = std::max(out.nearest, smooth_of(x, static_cast<size_t>(i)));
  }
  out.value = weighted_.transpose() * k + median_;
  const Covariance& c = covariance_;
  const double own = c.near * c.near + c.trend * c.trend * (1 + x.squaredNorm() / 9) +
                     c.family * c.family + c.noise * c.noise;
  out.deviation = std::sqrt(std::max(own - k.dot(inverse_ * k), 0.0));
  return out;
}

// The closed form of leave-one-out (Rasmussen and Williams 2006, equations 5.10 to 5.12).
Kriging::Prediction Kriging::without(size_t i) const {
  const auto row = static_cast<Eigen::Index>(i);
  Prediction out;
  const double precision = inverse_(row, row);
  out.value = (values_.row(row) - weighted_.row(row) / precision).transpose() + median_;
  out.deviation = std::sqrt(1 / precision);
  for (Eigen::Index j = 0; j < features_.cols(); ++j)
    if (j != row)
      out.nearest = std::max(out.nearest, smooth_of(features_.col(row), static_cast<size_t>(j)));
  return out;
}

// The same for a group: its residuals are the inverse of its block of the precision matrix times
// the weighted values.
Eigen::MatrixXd Kriging::without(const std::vector<size_t>& group) const {
  const auto size = static_cast<Eigen::Index>(group.size());
  Eigen::MatrixXd block(size, size), weighted(size, values_.cols()), values(size, values_.cols());
  for (Eigen::Index i = 0; i < size; ++i) {
    const auto row = static_cast<Eigen::Index>(group[static_cast<size_t>(i)]);
    for (Eigen::Index j = 0; j < size; ++j)
      block(i, j) = inverse_(row, static_cast<Eigen::Index>(group[static_cast<size_t>(j)]));
    weighted.row(i) = weighted_.row(row);
    values.row(i) = values_.row(row);
  }
  Eigen::MatrixXd out = values - block.llt().solve(weighted);
  out.rowwise() += median_.transpose();
  return out;
}

}  // namespace thermoe::cost
