#include "cost/kernel_model.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <map>
#include <tuple>

#include "thermoe/error.h"

namespace thermoe::cost {
namespace {

// Two runs of one version of the tables differ by about this much.
constexpr double kMeasuredErrorFrac = 0.02;
// What is assumed where too little was measured to hold anything out.
constexpr double kInterpolatedErrorFrac = 0.05, kTransferredErrorFrac = 0.15;
// Below this correlation with the nearest measured shape a reading is the roofline's, not theirs.
constexpr double kLeastNearness = 0.05;
constexpr double kBeyondErrorFrac = 0.3;
// Sharpness of the levelling off at the power limit: within 1 % of it from 1.2 times the limit on.
constexpr double kLimitSharpness = 16;
// A median of absolute errors is this share of a normal distribution's standard deviation.
constexpr double kMedianPerDeviation = 0.6745;

Covariance covariance_for(Operation op) {
  Covariance covariance;
  covariance.length = lengths_of(op);
  return covariance;
}

// Power varies less between shapes than latency does, and is measured with more noise.
Covariance power_covariance(Operation op) {
  Covariance covariance = covariance_for(op);
  covariance.near = 0.12;
  covariance.trend = 0.05;
  covariance.noise = 0.05;
  return covariance;
}

// Shapes of one model, split over devices or not. -1: none that was measured.
int family_of(const std::vector<MeasuredCurve>& curves, const KernelShape& s) {
  using Key = std::tuple<int64_t, int64_t, int, int>;
  std::map<Key, int> seen;
  for (const MeasuredCurve& c : curves)
    seen.emplace(Key(c.shape.hidden_size, c.shape.inter_size, c.shape.experts, c.shape.top_k),
                 static_cast<int>(seen.size()));
  const auto found = seen.find(Key(s.hidden_size, s.inter_size, s.experts, s.top_k));
  return found == seen.end() ? -1 : found->second;
}

BoundBy bound_of(const RooflineTime& t) {
  const double most = std::max({t.memory_us, t.compute_us, t.chain_us});
  if (t.launch_us > most || t.chain_us == most) return BoundBy::kOverhead;
  return t.compute_us == most ? BoundBy::kCompute : BoundBy::kMemory;
}

double error_or(const HeldOutErrors& errors, double otherwise) {
  return errors.known ? errors.median_frac / kMedianPerDeviation : otherwise;
}

}  // namespace

double kernel_power_w(const std::vector<double>& p, double limit_w, const KernelWork& work,
                      double latency_us, const KernelPeaks& peaks) {
  const double raw = p[0] + p[1] * work.bytes / (latency_us * peaks.bytes_per_us) +
                     p[2] * work.flops / (latency_us * peaks.flops_per_us);
  const double ratio = std::pow(raw / limit_w, kLimitSharpness);
  return raw / std::pow(1 + ratio, 1 / kLimitSharpness);
}

KernelModel::KernelModel(MeasuredKernel kernel, const KernelPeaks& peaks)
    : kernel_(std::move(kernel)), peaks_(peaks) {
  std::vector<KrigingPoint> points;
  const auto rows = static_cast<Eigen::Index>(kernel_.curves.size());
  const auto columns = static_cast<Eigen::Index>(kernel_.tokens.size());
  Eigen::MatrixXd residuals(rows, columns);
  for (Eigen::Index r = 0; r < rows; ++r) {
    const MeasuredCurve& curve = kernel_.curves[static_cast<size_t>(r)];
    points.push_back(point_of(curve.shape));
    for (Eigen::Index c = 0; c < columns; ++c) {
      const auto i = static_cast<size_t>(c);
      residuals(r, c) = std::log(curve.latency_us[i]) - log_roofline(curve.shape, kernel_.tokens[i]);
    }
  }
  latency_.emplace(kernel_.tokens, points, residuals, covariance_for(kernel_.op));
  if (!kernel_.power_parameters.empty()) set_power();
}

void KernelModel::set_power() {
  std::vector<KrigingPoint> points;
  std::vector<std::vector<double>> residuals;
  for (size_t i = 0; i < kernel_.curves.size(); ++i) {
    const MeasuredCurve& curve = kernel_.curves[i];
    std::vector<double> row(kernel_.tokens.size(), std::numeric_limits<double>::quiet_NaN());
    bool any = false;
    for (size_t t = 0; t < curve.power_w.size(); ++t) {
      if (!(curve.latency_us[t] >= kLeastPowerUs) || !std::isfinite(curve.power_w[t])) continue;
      const KernelWork work =
          work_of(curve.shape, load_of(curve.shape, kernel_.tokens[t]), peaks_);
      row[t] = std::log(curve.power_w[t] / kernel_power_w(kernel_.power_parameters,
                                                          kernel_.power_limit_w, work,
                                                          curve.latency_us[t], peaks_));
      any = true;
    }
    if (!any) continue;
    points.push_back(point_of(curve.shape));
    residuals.push_back(row);
    power_curves_.push_back(i);
  }
  if (points.empty()) return;
  Eigen::MatrixXd matrix(static_cast<Eigen::Index>(points.size()),
                         static_cast<Eigen::Index>(kernel_.tokens.size()));
  for (Eigen::Index r = 0; r < matrix.rows(); ++r)
    for (Eigen::Index c = 0; c < matrix.cols(); ++c)
      matrix(r, c) = residuals[static_cast<size_t>(r)][static_cast<size_t>(c)];
  power_.emplace(kernel_.tokens, points, matrix, power_covariance(kernel_.op));
}

double KernelModel::log_roofline(const KernelShape& shape, double tokens) const {
  return std::log(roofline(shape, load_of(shape, tokens), peaks_, kernel_.roofline).total_us);
}

KrigingPoint KernelModel::point_of(const KernelShape& shape) const {
  return {features_of(shape), family_of(kernel_.curves, shape)};
}

KernelCurve KernelModel::curve(const KernelShape& shape) const {
  KernelCurve curve;
  curve.model_ = this;
  curve.shape_ = shape;
  for (size_t i = 0; i < kernel_.curves.size(); ++i)
    if (kernel_.curves[i].shape == shape) curve.index_ = i;
  for (size_t i = 0; i < power_curves_.size(); ++i)
    if (curve.index_ && power_curves_[i] == *curve.index_) curve.power_index_ = i;
  const KrigingPoint point = point_of(shape);
  if (!curve.index_) curve.latency_ = latency_->predict(point);
  if (power_ && !curve.power_index_) curve.power_ = power_->predict(point);
  return curve;
}

double KernelModel::latency_without(size_t index, size_t grid) const {
  const double base = log_roofline(kernel_.curves[index].shape, kernel_.tokens[grid]);
  return std::exp(base + latency_->along_without(index, grid).value);
}

KernelReading KernelCurve::at(double tokens) const {
  if (!std::isfinite(tokens) || tokens < 1)
    throw InvalidArgument(fmt::format("{} tokens; give at least one", tokens));
  const KernelModel& model = *model_;
  KernelReading out;
  out.load = load_of(shape_, tokens);
  out.work = work_of(shape_, out.load, model.peaks_);
  const RooflineTime time = roofline(shape_, out.load, model.peaks_, model.kernel_.roofline);
  const ResidualField::Reading r = index_ ? model.latency_->along(*index_, tokens)
                                          : model.latency_->read(*latency_, tokens);
  out.latency_us = time.total_us * std::exp(r.value);
  out.bound_by = bound_of(time);
  // What the memory's speed sets doesn't wait for the SM clock; everything else does.
  out.clock_bound_frac = 1 - time.memory_share;
  if (r.exact) {
    out.source = CostSource::kMeasured;
    out.uncertainty_frac = kMeasuredErrorFrac;
  } else if (r.beyond || r.nearest < kLeastNearness) {
    out.source = CostSource::kRoofline;
    out.uncertainty_frac = kBeyondErrorFrac;
  } else if (index_) {
    out.source = CostSource::kInterpolated;
    out.uncertainty_frac = error_or(model.kernel_.unseen_tokens, kInterpolatedErrorFrac);
  } else {
    out.source = CostSource::kTransferred;
    // A shape as far from its neighbours as those held out were has their error; one farther, more.
    const double typical = error_or(model.kernel_.unseen_shape, kTransferredErrorFrac);
    out.uncertainty_frac = std::max(typical, typical * r.deviation / model.latency_->deviation());
  }
  if (!model.power_) return out;
  const ResidualField::Reading p = power_index_ ? model.power_->along(*power_index_, tokens)
                                                : model.power_->read(*power_, tokens);
  out.power_w = std::exp(p.value) * kernel_power_w(model.kernel_.power_parameters,
                                                   model.kernel_.power_limit_w, out.work,
                                                   out.latency_us, model.peaks_);
  out.power_w = std::min(out.power_w, 1.02 * model.kernel_.power_limit_w);
  out.power_uncertainty_frac = error_or(model.kernel_.unseen_shape_power, kTransferredErrorFrac);
  return out;
}

}  // namespace thermoe::cost
