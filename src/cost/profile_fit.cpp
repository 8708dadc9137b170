#include "cost/profile_fit.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <map>
#include <numeric>
#include <random>
#include <set>
#include <tuple>

#include "cost/kernel_model.h"
#include "cost/robust_fit.h"
#include "cost/statistics.h"
#include "thermoe/error.h"

namespace thermoe::cost {
namespace {

constexpr double kMissing = std::numeric_limits<double>::quiet_NaN();
constexpr size_t kLeastShapesHeldOut = 8;
constexpr size_t kCurvesForCovariance = 240;
constexpr size_t kLeastCurvesForCovariance = 30;
constexpr double kPowerOutliers[] = {0.05, 0.1, 0.2, 10};
constexpr double kCovarianceSteps[] = {2, 1.5};
// What thermoe calibrate measures repeats a point for as long as its power takes to read.
constexpr const char* kOwnFramework = "thermoe ";
constexpr double kOwnLeastPowerUs = 1;
// The CUDA kernel of the experts multiplies stages of so many columns (docs/gpu-kernels.md).
constexpr const char* kStagedKernel = "thermoe_cuda_experts";
constexpr double kStageColumns = 1024;

// Orders shapes so that a file's curves stand together by model, then by split and load.
auto order_of(const KernelShape& s) {
  return std::tuple(s.hidden_size, s.inter_size, s.experts, s.top_k, s.tp, s.ep, s.load_exponent);
}
struct ShapeLess {
  bool operator()(const KernelShape& a, const KernelShape& b) const {
    return order_of(a) < order_of(b);
  }
};

// The shape alone, whatever its load.
KernelShape unloaded(KernelShape shape) {
  shape.load_exponent = 0;
  return shape;
}

HeldOutErrors errors_of(std::vector<double> errors) {
  if (errors.empty()) return {};
  std::sort(errors.begin(), errors.end());
  return {errors[errors.size() / 2], errors[errors.size() * 9 / 10], true};
}

// One kernel's rows, by shape and tokens.
MeasuredKernel gather(const std::vector<const MeasuredRow*>& rows) {
  MeasuredKernel kernel;
  const MeasuredRow& first = *rows.front();
  kernel.op = first.shape.op;
  kernel.kernel = first.kernel;
  kernel.framework = first.framework;
  kernel.dtype = first.dtype;
  const bool own = first.framework.rfind(kOwnFramework, 0) == 0;
  if (own) kernel.power_least_us = kOwnLeastPowerUs;
  if (own && first.kernel.rfind(kStagedKernel, 0) == 0) kernel.stage_columns = kStageColumns;
  std::set<double> tokens;
  std::map<KernelShape, std::map<double, std::pair<std::vector<double>, std::vector<double>>>,
           ShapeLess>
      points;
  for (const MeasuredRow* row : rows) {
    tokens.insert(row->tokens);
    auto& [latency, power] = points[row->shape][row->tokens];
    latency.push_back(row->latency_us);
    if (row->power_w > 0) power.push_back(row->power_w);
    kernel.power_limit_w = std::max(kernel.power_limit_w, row->power_limit_w);
    // Half a second is too short for the limit to bind: power is what it is at the full clock, and
    // levels off nowhere below what was read.
    if (own && row->power_limit_w > 0)
      kernel.power_limit_w = std::max(kernel.power_limit_w, row->power_w);
  }
  kernel.tokens.assign(tokens.begin(), tokens.end());
  for (const auto& [shape, along] : points) {
    MeasuredCurve curve{shape, {}, {}};
    bool any_power = false;
    for (double t : kernel.tokens) {
      const auto found = along.find(t);
      const bool measured = found != along.end();
      curve.latency_us.push_back(measured ? median_of(found->second.first) : kMissing);
      const bool power = measured && !found->second.second.empty();
      curve.power_w.push_back(power ? median_of(found->second.second) : kMissing);
      any_power |= power;
    }
    if (!any_power) curve.power_w.clear();
    kernel.curves.push_back(std::move(curve));
  }
  return kernel;
}

struct Sample {
  const KernelShape* shape;
  KernelLoad load;
  double latency_us, power_w;
};

std::vector<Sample> samples_of(const MeasuredKernel& kernel) {
  std::vector<Sample> samples;
  for (const MeasuredCurve& curve : kernel.curves)
    for (size_t t = 0; t < kernel.tokens.size(); ++t)
      if (std::isfinite(curve.latency_us[t]))
        samples.push_back({&curve.shape, load_of(curve.shape, kernel.tokens[t]),
                           curve.latency_us[t],
                           curve.power_w.empty() ? kMissing : curve.power_w[t]});
  return samples;
}

void fit_roofline(MeasuredKernel& kernel, const std::vector<Sample>& samples,
                  const KernelPeaks& peaks) {
  kernel.roofline =
      fit_robust(roofline_start(), static_cast<Eigen::Index>(samples.size()),
                 [&](const std::vector<double>& p, Eigen::VectorXd& out) {
                   for (size_t i = 0; i < samples.size(); ++i) {
                     const Sample& s = samples[i];
                     out(static_cast<Eigen::Index>(i)) =
                         std::log(roofline(*s.shape, s.load, peaks, p).total_us / s.latency_us);
                   }
                 });
}

// Whole shapes, all their loads together, with a number that starts at 0.
std::map<KernelShape, int, ShapeLess> shapes_of(const MeasuredKernel& kernel) {
  std::map<KernelShape, int, ShapeLess> shapes;
  for (const MeasuredCurve& curve : kernel.curves) shapes.emplace(unloaded(curve.shape), 0);
  return shapes;
}

// Which fold each curve is held out in, with its shape.
std::vector<int> folds_of(const MeasuredKernel& kernel, int folds) {
  std::map<KernelShape, int, ShapeLess> of = shapes_of(kernel);
  std::vector<int> order(of.size());
  std::iota(order.begin(), order.end(), 0);
  std::mt19937_64 random(1);
  for (size_t i = order.size(); i > 1; --i) std::swap(order[i - 1], order[random() % i]);
  size_t next = 0;
  for (auto& [shape, fold] : of) fold = order[next++] % folds;
  std::vector<int> out;
  out.reserve(kernel.curves.size());
  for (const MeasuredCurve& curve : kernel.curves) out.push_back(of.at(unloaded(curve.shape)));
  return out;
}

// The kernel with the curves of all folds but one.
MeasuredKernel without_fold(const MeasuredKernel& kernel, const std::vector<int>& fold, int held) {
  MeasuredKernel rest = kernel;
  rest.curves.clear();
  for (size_t i = 0; i < fold.size(); ++i)
    if (fold[i] != held) rest.curves.push_back(kernel.curves[i]);
  return rest;
}

// Absolute relative errors of the power where a measured curve's can be trusted.
void add_power_errors(const KernelCurve& curve, const MeasuredCurve& measured,
                      const MeasuredKernel& kernel, std::vector<double>& errors) {
  for (size_t t = 0; t < measured.power_w.size(); ++t) {
    if (!(measured.latency_us[t] >= kernel.power_least_us) || !std::isfinite(measured.power_w[t]))
      continue;
    const double power_w = curve.at(kernel.tokens[t]).power_w;
    if (power_w > 0) errors.push_back(std::abs(power_w / measured.power_w[t] - 1));
  }
}

// Median error of the power of curves that the others predict.
double unseen_power_error(const MeasuredKernel& kernel, const KernelPeaks& peaks) {
  const std::vector<int> fold = folds_of(kernel, 2);
  std::vector<double> errors;
  for (int f = 0; f < 2; ++f) {
    MeasuredKernel rest = without_fold(kernel, fold, f);
    if (rest.curves.empty()) continue;
    const KernelModel model(std::move(rest), peaks);
    for (size_t i = 0; i < fold.size(); ++i)
      if (fold[i] == f)
        add_power_errors(model.curve(kernel.curves[i].shape), kernel.curves[i], kernel, errors);
  }
  return errors.empty() ? 0 : median_of(std::move(errors));
}

// Some tables' readings are far off in a quarter of the rows, others' nowhere: which it is shows in
// how well the rest predicts.
void choose_power_outliers(MeasuredKernel& kernel, const KernelPeaks& peaks) {
  double best = std::numeric_limits<double>::infinity(), chosen = kPowerOutliers[0];
  for (double frac : kPowerOutliers) {
    kernel.power_outlier_frac = frac;
    const double error = unseen_power_error(kernel, peaks);
    if (error < best) chosen = frac;
    best = std::min(best, error);
  }
  kernel.power_outlier_frac = chosen;
}

void fit_power(MeasuredKernel& kernel, const std::vector<Sample>& samples,
               const KernelPeaks& peaks) {
  if (kernel.power_limit_w <= 0) return;
  std::vector<const Sample*> sure;
  for (const Sample& s : samples)
    if (s.latency_us >= kernel.power_least_us && std::isfinite(s.power_w)) sure.push_back(&s);
  if (sure.empty()) return;
  const double limit = kernel.power_limit_w;
  kernel.power_parameters =
      fit_robust({0.25 * limit, 0.5 * limit, 0.8 * limit}, static_cast<Eigen::Index>(sure.size()),
                 [&](const std::vector<double>& p, Eigen::VectorXd& out) {
                   for (size_t i = 0; i < sure.size(); ++i) {
                     const Sample& s = *sure[i];
                     const double watts = kernel_power_w(p, limit, work_of(*s.shape, s.load, peaks),
                                                         s.latency_us, peaks);
                     out(static_cast<Eigen::Index>(i)) = std::log(watts / s.power_w);
                   }
                 },
                 {.scale = 0.02, .prior_weight = 1, .most_factor = 10});
  choose_power_outliers(kernel, peaks);
}

// Of many curves one per shape, under one load after the other, so that choosing a covariance takes
// seconds.
MeasuredKernel thinned(const MeasuredKernel& kernel) {
  if (kernel.curves.size() <= kCurvesForCovariance) return kernel;
  MeasuredKernel out = kernel;
  out.curves.clear();
  for (size_t first = 0, shape = 0; first < kernel.curves.size(); ++shape) {
    size_t end = first + 1;
    while (end < kernel.curves.size() &&
           unloaded(kernel.curves[first].shape) == unloaded(kernel.curves[end].shape))
      ++end;
    out.curves.push_back(kernel.curves[first + shape % (end - first)]);
    first = end;
  }
  return out;
}

// Coordinate descent: each part is tried larger and smaller, and kept where shapes that were left
// out are predicted better.
void fit_covariance(MeasuredKernel& kernel, const KernelPeaks& peaks) {
  kernel.covariance = parts_of(covariance_start(kernel.op));
  if (kernel.curves.size() < kLeastCurvesForCovariance) return;
  MeasuredKernel sample = thinned(kernel);
  sample.power_parameters.clear();
  double best = KernelModel(sample, peaks).unseen_shape_error();
  for (double step : kCovarianceSteps)
    for (size_t part = 0; part < sample.covariance.size(); ++part)
      for (double factor : {step, 1 / step}) {
        const double before = sample.covariance[part];
        sample.covariance[part] *= factor;
        const double error = KernelModel(sample, peaks).unseen_shape_error();
        if (error < best) {
          best = error;
          break;
        }
        sample.covariance[part] = before;
      }
  kernel.covariance = sample.covariance;
}

void fit_kernel(MeasuredKernel& kernel, const KernelPeaks& peaks) {
  const std::vector<Sample> samples = samples_of(kernel);
  fit_roofline(kernel, samples, peaks);
  fit_covariance(kernel, peaks);
  fit_power(kernel, samples, peaks);
}

void hold_out_shapes(MeasuredKernel& kernel, const KernelPeaks& peaks, int folds) {
  const std::vector<int> fold = folds_of(kernel, folds);
  std::vector<double> latency, power;
  for (int f = 0; f < folds; ++f) {
    MeasuredKernel rest = without_fold(kernel, fold, f);
    fit_kernel(rest, peaks);
    const KernelModel model(std::move(rest), peaks);
    for (size_t i = 0; i < fold.size(); ++i) {
      if (fold[i] != f) continue;
      const MeasuredCurve& held = kernel.curves[i];
      const KernelCurve curve = model.curve(held.shape);
      for (size_t t = 0; t < kernel.tokens.size(); ++t) {
        if (!std::isfinite(held.latency_us[t])) continue;
        latency.push_back(std::abs(curve.at(kernel.tokens[t]).latency_us / held.latency_us[t] - 1));
      }
      add_power_errors(curve, held, kernel, power);
    }
  }
  kernel.unseen_shape = errors_of(std::move(latency));
  kernel.unseen_shape_power = errors_of(std::move(power));
}

void hold_out_tokens(MeasuredKernel& kernel, const KernelPeaks& peaks) {
  const KernelModel model(kernel, peaks);
  std::vector<double> errors;
  for (size_t i = 0; i < kernel.curves.size(); ++i)
    for (size_t t = 1; t + 1 < kernel.tokens.size(); ++t) {
      const std::vector<double>& curve = kernel.curves[i].latency_us;
      if (std::isfinite(curve[t - 1]) && std::isfinite(curve[t]) && std::isfinite(curve[t + 1]))
        errors.push_back(std::abs(model.latency_without(i, t) / curve[t] - 1));
    }
  kernel.unseen_tokens = errors_of(std::move(errors));
}

}  // namespace

KernelProfile fit_profile(const std::vector<MeasuredRow>& rows,
                          const ProfileFitSettings& settings) {
  if (rows.empty()) throw InvalidArgument("fit_profile: no rows");
  std::map<std::tuple<Operation, std::string, std::string>, std::vector<const MeasuredRow*>>
      kernels;
  for (const MeasuredRow& row : rows) {
    if (row.device != rows.front().device)
      throw InvalidArgument(fmt::format("rows of two devices, \"{}\" and \"{}\"; fit one at a time",
                                        rows.front().device, row.device));
    kernels[{row.shape.op, row.kernel, row.dtype}].push_back(&row);
  }
  KernelProfile profile;
  profile.device = rows.front().device;
  profile.memory_bytes_per_s = settings.memory_bytes_per_s;
  profile.bf16_flops_per_s = settings.bf16_flops_per_s;
  double done = 0;
  for (const auto& [key, of_kernel] : kernels) {
    MeasuredKernel kernel = gather(of_kernel);
    KernelPeaks peaks =
        peaks_of(kernel.dtype, settings.memory_bytes_per_s, settings.bf16_flops_per_s);
    peaks.stage_columns = kernel.stage_columns;
    fit_kernel(kernel, peaks);
    if (settings.folds > 1 && shapes_of(kernel).size() >= kLeastShapesHeldOut) {
      hold_out_tokens(kernel, peaks);
      hold_out_shapes(kernel, peaks, settings.folds);
    }
    profile.kernels.push_back(std::move(kernel));
    done += static_cast<double>(of_kernel.size());
    if (settings.progress) settings.progress(done / static_cast<double>(rows.size()));
  }
  return profile;
}

}  // namespace thermoe::cost
