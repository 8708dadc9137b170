#include "cost/residual_field.h"

#include <algorithm>
#include <cmath>

#include "cost/statistics.h"

namespace thermoe::cost {
namespace {

// How much of what other shapes do between two measured token counts is taken over; by
// cross-validation flat between 0.3 and 0.7.
constexpr double kPriorShare = 0.5;

double line(double x, double x0, double y0, double x1, double y1) {
  const double weight = (x - x0) / (x1 - x0);
  // The first form is exact at either end.
  return weight >= 1 ? y1 : y0 + weight * (y1 - y0);
}

// Index i into `known` such that log[known[i]] <= x < log[known[i + 1]], clamped to a segment.
size_t segment(const std::vector<double>& log, const std::vector<size_t>& known, double x) {
  size_t i = 0;
  while (i + 2 < known.size() && log[known[i + 1]] <= x) ++i;
  return i;
}

}  // namespace

ResidualField::ResidualField(std::vector<double> grid, const std::vector<KrigingPoint>& points,
                             const Eigen::MatrixXd& residuals, const Covariance& covariance)
    : grid_(std::move(grid)), residuals_(residuals) {
  for (double tokens : grid_) log_grid_.push_back(std::log2(tokens));
  for (Eigen::Index r = 0; r < residuals_.rows(); ++r) {
    std::vector<size_t>& known = measured_.emplace_back();
    for (Eigen::Index c = 0; c < residuals_.cols(); ++c)
      if (std::isfinite(residuals_(r, c))) known.push_back(static_cast<size_t>(c));
  }
  const Eigen::MatrixXd filled = filled_residuals();
  kriging_.emplace(points, filled, covariance);
  prior_ = Eigen::MatrixXd::Zero(filled.rows(), filled.cols());
  if (filled.rows() < 2) return;  // one point's others say nothing
  std::vector<double> deviations;
  deviations.reserve(static_cast<size_t>(filled.rows()));
  for (Eigen::Index r = 0; r < filled.rows(); ++r) {
    const Kriging::Prediction others = kriging_->without(static_cast<size_t>(r));
    deviations.push_back(others.deviation);
    // The median over shapes is common knowledge, what the others add to it is shared in part.
    const Eigen::VectorXd& median = kriging_->median();
    prior_.row(r) = (median + kPriorShare * (others.value - median)).transpose();
  }
  deviation_ = median_of(std::move(deviations));
}

// Gaps closed along each curve, flat beyond its ends.
Eigen::MatrixXd ResidualField::filled_residuals() const {
  Eigen::MatrixXd filled = residuals_;
  for (Eigen::Index r = 0; r < filled.rows(); ++r) {
    const std::vector<size_t>& known = measured_[static_cast<size_t>(r)];
    const auto value = [&](size_t i) { return residuals_(r, static_cast<Eigen::Index>(i)); };
    for (Eigen::Index c = 0; c < filled.cols(); ++c) {
      if (std::isfinite(filled(r, c))) continue;
      const double x = log_grid_[static_cast<size_t>(c)];
      const size_t first = known.front(), last = known.back();
      if (x <= log_grid_[first] || x >= log_grid_[last]) {
        filled(r, c) = value(x <= log_grid_[first] ? first : last);
        continue;
      }
      const size_t i = segment(log_grid_, known, x);
      filled(r, c) = line(x, log_grid_[known[i]], value(known[i]), log_grid_[known[i + 1]],
                          value(known[i + 1]));
    }
  }
  return filled;
}

double ResidualField::held_out_error(const std::vector<std::vector<size_t>>& groups) const {
  double sum = 0, count = 0;
  for (const std::vector<size_t>& group : groups) {
    const Eigen::MatrixXd predicted = kriging_->without(group);
    for (size_t i = 0; i < group.size(); ++i)
      for (size_t c : measured_[group[i]]) {
        const auto column = static_cast<Eigen::Index>(c);
        sum += std::abs(predicted(static_cast<Eigen::Index>(i), column) -
                        residuals_(static_cast<Eigen::Index>(group[i]), column));
        ++count;
      }
  }
  return sum / count;
}

double ResidualField::prior_at(size_t point, double x) const {
  const auto row = static_cast<Eigen::Index>(point);
  if (grid_.size() == 1) return prior_(row, 0);
  const auto above = std::upper_bound(log_grid_.begin(), log_grid_.end(), x);
  const auto i = std::clamp<std::ptrdiff_t>(above - log_grid_.begin() - 1, 0,
                                            static_cast<std::ptrdiff_t>(grid_.size()) - 2);
  return line(x, log_grid_[static_cast<size_t>(i)], prior_(row, i),
              log_grid_[static_cast<size_t>(i) + 1], prior_(row, i + 1));
}

ResidualField::Reading ResidualField::interpolate(size_t point, double tokens,
                                                  const std::vector<size_t>& known) const {
  const auto row = static_cast<Eigen::Index>(point);
  const auto value = [&](size_t i) { return residuals_(row, static_cast<Eigen::Index>(i)); };
  const double x = std::log2(tokens);
  Reading reading;
  for (size_t i : known)
    if (grid_[i] == tokens) {
      reading.value = value(i);
      reading.exact = true;
      return reading;
    }
  const bool low = tokens<grid_[known.front()], high = tokens> grid_[known.back()];
  if (low || high) {
    reading.beyond = true;
    reading.value = value(low ? known.front() : known.back());
    return reading;
  }
  const size_t i = segment(log_grid_, known, x);
  const size_t a = known[i], b = known[i + 1];
  const auto between = [&](double at_a, double at_b) {
    return line(x, log_grid_[a], at_a, log_grid_[b], at_b);
  };
  reading.value =
      between(value(a), value(b)) + prior_at(point, x) -
      between(prior_(row, static_cast<Eigen::Index>(a)), prior_(row, static_cast<Eigen::Index>(b)));
  return reading;
}

ResidualField::Reading ResidualField::along(size_t point, double tokens) const {
  return interpolate(point, tokens, measured_[point]);
}

ResidualField::Reading ResidualField::along_without(size_t point, size_t hidden) const {
  std::vector<size_t> known = measured_[point];
  known.erase(std::remove(known.begin(), known.end(), hidden), known.end());
  return interpolate(point, grid_[hidden], known);
}

ResidualField::Reading ResidualField::read(const Kriging::Prediction& prediction,
                                           double tokens) const {
  Reading reading;
  reading.deviation = prediction.deviation;
  reading.nearest = prediction.nearest;
  reading.beyond = tokens < grid_.front() || tokens > grid_.back();
  const double clamped = std::clamp(tokens, grid_.front(), grid_.back());
  size_t i = 0;
  while (i + 2 < grid_.size() && grid_[i + 1] <= clamped) ++i;
  const auto at = [&](size_t j) { return prediction.value(static_cast<Eigen::Index>(j)); };
  reading.value = grid_.size() == 1
                      ? at(0)
                      : line(std::log2(clamped), log_grid_[i], at(i), log_grid_[i + 1], at(i + 1));
  return reading;
}

}  // namespace thermoe::cost
