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
// Far more than any batch: beyond it counts lose their meaning, and a load takes long to draw.
constexpr double kMostTokens = 1e7;
// A median of absolute errors is this share of a normal distribution's standard deviation.
constexpr double kMedianPerDeviation = 0.6745;

// Power varies less between shapes than latency does, and is measured with more noise.
Covariance power_covariance(Operation op) {
  Covariance covariance = covariance_start(op);
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

Covariance covariance_start(Operation op) {
  Covariance covariance;
  covariance.length = lengths_of(op);
  return covariance;
}

double kernel_power_w(const std::vector<double>& p, double limit_w, const KernelWork& work,
                      double latency_us, const KernelPeaks& peaks) {
  const double raw = p[0] + p[1] * work.bytes / (latency_us * peaks.bytes_per_us) +
                     p[2] * work.flops / (latency_us * peaks.flops_per_us);
  const double ratio = std::pow(raw / limit_w, kLimitSharpness);
  return raw / std::pow(1 + ratio, 1 / kLimitSharpness);
}

KernelModel::KernelModel(MeasuredKernel kernel, const KernelPeaks& peaks)
    : kernel_(std::move(kernel)), peaks_(peaks) {
  peaks_.stage_columns = kernel_.stage_columns;
}

const ResidualField& KernelModel::latency() const {
  std::call_once(latency_once_, [this] { latency_.emplace(make_latency()); });
  return *latency_;
}

const std::optional<KernelModel::PowerField>& KernelModel::power() const {
  std::call_once(power_once_, [this] { power_ = make_power(); });
  return power_;
}

ResidualField KernelModel::make_latency() const {
  std::vector<KrigingPoint> points;
  const auto rows = static_cast<Eigen::Index>(kernel_.curves.size());
  const auto columns = static_cast<Eigen::Index>(kernel_.tokens.size());
  Eigen::MatrixXd residuals(rows, columns);
  for (Eigen::Index r = 0; r < rows; ++r) {
    const MeasuredCurve& curve = kernel_.curves[static_cast<size_t>(r)];
    points.push_back(point_of(curve.shape));
    for (Eigen::Index c = 0; c < columns; ++c) {
      const auto i = static_cast<size_t>(c);
      residuals(r, c) =
          std::log(curve.latency_us[i]) - log_roofline(curve.shape, kernel_.tokens[i]);
    }
  }
  return {kernel_.tokens, points, residuals, covariance_from(kernel_.covariance)};
}

std::optional<KernelModel::PowerField> KernelModel::make_power() const {
  if (kernel_.power_parameters.empty()) return std::nullopt;
  std::vector<KrigingPoint> points;
  std::vector<size_t> curves;
  Eigen::MatrixXd residuals(static_cast<Eigen::Index>(kernel_.curves.size()),
                            static_cast<Eigen::Index>(kernel_.tokens.size()));
  for (size_t i = 0; i < kernel_.curves.size(); ++i) {
    const MeasuredCurve& curve = kernel_.curves[i];
    const auto row = static_cast<Eigen::Index>(points.size());
    residuals.row(row).setConstant(std::numeric_limits<double>::quiet_NaN());
    for (size_t t = 0; t < curve.power_w.size(); ++t) {
      if (!(curve.latency_us[t] >= kernel_.power_least_us)) continue;
      const KernelWork work = work_of(curve.shape, load_of(curve.shape, kernel_.tokens[t]), peaks_);
      const double ratio =
          curve.power_w[t] / kernel_power_w(kernel_.power_parameters, kernel_.power_limit_w, work,
                                            curve.latency_us[t], peaks_);
      if (std::abs(ratio - 1) > kernel_.power_outlier_frac) continue;
      residuals(row, static_cast<Eigen::Index>(t)) = std::log(ratio);
    }
    if (residuals.row(row).array().isNaN().all()) continue;
    points.push_back(point_of(curve.shape));
    curves.push_back(i);
  }
  if (points.empty()) return std::nullopt;
  residuals.conservativeResize(static_cast<Eigen::Index>(points.size()), Eigen::NoChange);
  return PowerField{{kernel_.tokens, points, residuals, power_covariance(kernel_.op)}, curves};
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
  if (!curve.index_) curve.latency_ = latency().predict(point_of(shape));
  return curve;
}

double KernelModel::latency_without(size_t index, size_t grid) const {
  const double base = log_roofline(kernel_.curves[index].shape, kernel_.tokens[grid]);
  return std::exp(base + latency().along_without(index, grid).value);
}

double KernelModel::unseen_shape_error() const {
  std::map<std::tuple<int64_t, int64_t, int, int, int, int>, std::vector<size_t>> shapes;
  for (size_t i = 0; i < kernel_.curves.size(); ++i) {
    const KernelShape& s = kernel_.curves[i].shape;
    shapes[{s.hidden_size, s.inter_size, s.experts, s.top_k, s.tp, s.ep}].push_back(i);
  }
  std::vector<std::vector<size_t>> groups;
  groups.reserve(shapes.size());
  for (auto& [shape, group] : shapes) groups.push_back(std::move(group));
  return latency().held_out_error(groups);
}

std::optional<size_t> KernelCurve::measured_at(double tokens) const {
  if (!index_) return std::nullopt;
  const std::vector<double>& grid = model_->kernel_.tokens;
  const auto found = std::lower_bound(grid.begin(), grid.end(), tokens);
  if (found == grid.end() || *found != tokens) return std::nullopt;
  const auto i = static_cast<size_t>(found - grid.begin());
  const bool measured = std::isfinite(model_->kernel_.curves[*index_].latency_us[i]);
  return measured ? std::optional(i) : std::nullopt;
}

void KernelCurve::set_latency(KernelReading& out, const RooflineTime& time) const {
  const double tokens = out.load.tokens;
  if (const std::optional<size_t> i = measured_at(tokens)) {
    out.latency_us = model_->kernel_.curves[*index_].latency_us[*i];
    out.source = CostSource::kMeasured;
    out.uncertainty_frac = kMeasuredErrorFrac;
    return;
  }
  const ResidualField& field = model_->latency();
  const ResidualField::Reading r =
      index_ ? field.along(*index_, tokens) : field.read(*latency_, tokens);
  out.latency_us = time.total_us * std::exp(r.value);
  if (r.beyond || r.nearest < kLeastNearness) {
    out.source = CostSource::kRoofline;
    out.uncertainty_frac = kBeyondErrorFrac;
  } else if (index_) {
    out.source = CostSource::kInterpolated;
    out.uncertainty_frac = error_or(model_->kernel_.unseen_tokens, kInterpolatedErrorFrac);
  } else {
    out.source = CostSource::kTransferred;
    // A shape as far from its neighbours as those held out were has their error; one farther, more.
    const double typical = error_or(model_->kernel_.unseen_shape, kTransferredErrorFrac);
    const double farther = field.deviation() > 0 ? r.deviation / field.deviation() : 1.0;
    out.uncertainty_frac = typical * std::max(farther, 1.0);
  }
}

void KernelCurve::set_power(KernelReading& out) const {
  const MeasuredKernel& kernel = model_->kernel_;
  if (kernel.power_parameters.empty()) return;
  const std::optional<size_t> i = measured_at(out.load.tokens);
  if (i && out.latency_us >= kernel.power_least_us) {
    const std::vector<double>& power = kernel.curves[*index_].power_w;
    if (!power.empty() && std::isfinite(power[*i])) {
      out.power_w = power[*i];
      out.power_uncertainty_frac = kMeasuredErrorFrac;
      return;
    }
  }
  out.power_w = kernel_power_w(kernel.power_parameters, kernel.power_limit_w, out.work,
                               out.latency_us, model_->peaks_);
  out.power_uncertainty_frac = error_or(kernel.unseen_shape_power, kTransferredErrorFrac);
  const auto& power = model_->power();
  if (!power) return;
  const auto point =
      std::find(power->curves.begin(), power->curves.end(), index_.value_or(kernel.curves.size()));
  const ResidualField::Reading r =
      point != power->curves.end()
          ? power->field.along(static_cast<size_t>(point - power->curves.begin()), out.load.tokens)
          : power->field.read(power->field.predict(model_->point_of(shape_)), out.load.tokens);
  out.power_w = std::min(out.power_w * std::exp(r.value), kernel.power_limit_w);
}

KernelReading KernelCurve::at(double tokens) const {
  if (!(tokens >= 1 && tokens <= kMostTokens))
    throw InvalidArgument(
        fmt::format("{} tokens; give at least one, at most {}", tokens, kMostTokens));
  KernelReading out;
  out.load = load_of(shape_, tokens);
  out.work = work_of(shape_, out.load, model_->peaks_);
  const RooflineTime time = roofline(shape_, out.load, model_->peaks_, model_->kernel_.roofline);
  out.bound_by = bound_of(time);
  // What the memory's speed sets doesn't wait for the SM clock; everything else does.
  out.clock_bound_frac = 1 - time.memory_share;
  set_latency(out, time);
  set_power(out);
  return out;
}

}  // namespace thermoe::cost
