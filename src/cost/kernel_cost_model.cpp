#include "thermoe/kernel_cost_model.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "cost/convex_envelope.h"
#include "cost/kernel_cost_model_impl.h"
#include "cost/least_squares.h"
#include "cost/power_model.h"
#include "thermoe/error.h"

namespace thermoe {
namespace {

// Least rows that a grouped kernel computes per expert.
constexpr double kCountedTileRows = 16;
// Die temperature under load in the recorded trace: energy without a state is charged there.
constexpr double kWarmDieC = 62;
// Repeatability of the tables: two runs of one version differ by about this much.
constexpr double kMeasuredErrorFrac = 0.02;
constexpr double kExtrapolatedErrorFrac = 0.2;

cost::KernelShape layer_shape(const CostShape& s, double load_exponent) {
  return {cost::Operation::kExperts,
          s.hidden_size,
          s.expert_inter_size,
          s.experts,
          s.top_k,
          1,
          1,
          load_exponent};
}

// One load of the shape over the kernel's token counts: what was measured of it or, where nothing
// was, what other shapes say.
cost::MeasuredLoad load_along(const cost::KernelModel& kernel, const cost::KernelCurve& curve) {
  cost::MeasuredLoad load;
  for (double tokens : kernel.kernel().tokens) {
    const cost::KernelReading reading = curve.at(tokens);
    if (curve.measured() && reading.source != CostSource::kMeasured) continue;
    load.tokens.push_back(tokens);
    load.distinct_experts.push_back(reading.load.distinct);
    load.latency_us.push_back(reading.latency_us);
  }
  return load;
}

// The surface goes up to all experts: where the measured token counts end before a balanced load
// reaches them, the kernel's model says what that takes.
void reach_all_experts(cost::MeasuredLoad& load, const cost::KernelCurve& balanced,
                       const CostShape& shape) {
  if (load.distinct_experts.back() >= shape.experts) return;
  const double tokens = std::ceil(static_cast<double>(shape.experts) / shape.top_k);
  const cost::KernelReading reading = balanced.at(tokens);
  load.tokens.push_back(tokens);
  load.distinct_experts.push_back(reading.load.distinct);
  load.latency_us.push_back(reading.latency_us);
  load.last_extrapolated = true;
}

// The shape's balanced load first, then the skewed ones that were measured.
cost::MeasuredShape measured_shape(const cost::KernelModel& kernel, const CostShape& shape) {
  cost::MeasuredShape out;
  out.hidden_size = shape.hidden_size;
  out.expert_inter_size = shape.expert_inter_size;
  out.experts = shape.experts;
  out.top_k = shape.top_k;
  const cost::KernelCurve balanced = kernel.curve(layer_shape(shape, 0));
  out.loads.push_back(load_along(kernel, balanced));
  reach_all_experts(out.loads.front(), balanced, shape);
  for (const cost::MeasuredCurve& curve : kernel.kernel().curves)
    if (curve.shape.load_exponent > 0 &&
        curve.shape == layer_shape(shape, curve.shape.load_exponent))
      out.loads.push_back(load_along(kernel, kernel.curve(curve.shape)));
  return out;
}

void check(const MoeWork& work, const CostShape& shape) {
  const double values[] = {work.tokens, work.distinct_experts, work.assignments};
  for (double value : values)
    if (!std::isfinite(value) || value < 0)
      throw InvalidArgument(fmt::format("MoeWork: {} is negative or not finite", value));
  // A stand-in's fractions may round above by an ulp or so.
  if (work.distinct_experts > shape.experts * (1 + 1e-9))
    throw InvalidArgument(fmt::format("MoeWork: {} distinct experts, but {} has only {}",
                                      work.distinct_experts, shape.name, shape.experts));
}

bool has_linear(const cost::KernelProfile& profile) {
  return std::any_of(
      profile.kernels.begin(), profile.kernels.end(),
      [](const cost::MeasuredKernel& k) { return k.op == cost::Operation::kLinear; });
}

}  // namespace

KernelCostModel::Impl::Impl(const std::filesystem::path& file, const CostShape& shape_in,
                            const KernelChoice& choice)
    : shape(shape_in) {
  const cost::KernelProfile profile = cost::read_kernel_profile(file);
  device = profile.device;
  if (!profile.power_profile.empty())
    power = read_twin_parameters(file.parent_path() / profile.power_profile);
  const auto peaks = [](const cost::KernelProfile& p, const std::string& dtype) {
    return cost::peaks_of(dtype, p.memory_bytes_per_s, p.bf16_flops_per_s);
  };
  own_peaks = peaks(profile, "bf16");
  const cost::MeasuredKernel& kernel =
      find_kernel(profile, cost::Operation::kExperts, choice.dtype, choice.kernel);
  experts.emplace(kernel, peaks(profile, kernel.dtype));
  if (!profile.linear_profile.empty() || has_linear(profile)) {
    const cost::KernelProfile dense =
        profile.linear_profile.empty()
            ? profile
            : cost::read_kernel_profile(file.parent_path() / profile.linear_profile);
    const cost::MeasuredKernel& product = find_kernel(dense, cost::Operation::kLinear, "bf16", "");
    linear.emplace(product, peaks(dense, product.dtype));
    linear_transferred = dense.device != device;
  }
  if (shape.layers == 0) return;  // queries of single operations only
  const cost::KernelCurve balanced = experts->curve(layer_shape(shape, 0));
  layer_measured = balanced.measured();
  layer_uncertainty_frac = layer_measured ? kMeasuredErrorFrac : balanced.at(16).uncertainty_frac;
  const bool trusted = experts->kernel().power_least_us < cost::kLeastPowerUs;
  if (trusted && !experts->kernel().power_parameters.empty()) layer_power = balanced;
  surface.emplace(measured_shape(*experts, shape));
}

// That of a balanced load of about as many tokens: few are few experts' weights, and once all
// experts are read, it is the assignments that count.
double KernelCostModel::Impl::layer_power_w(const MoeWork& work) const {
  if (!layer_power) return 0;
  const double open_frac = work.distinct_experts / shape.experts;
  const double tokens = std::pow(work.distinct_experts, 1 - open_frac) *
                        std::pow(work.assignments, open_frac) / shape.top_k;
  return layer_power->at(std::clamp(tokens, 1.0, experts->kernel().tokens.back())).power_w;
}

double KernelCostModel::Impl::expert_params() const {
  return static_cast<double>(cost::projections_of(layer_shape(shape, 0))) *
         static_cast<double>(shape.hidden_size) * static_cast<double>(shape.expert_inter_size);
}

double KernelCostModel::Impl::linear_on_own_device_us(const cost::KernelShape& product,
                                                      const cost::KernelReading& reading) const {
  const auto& parameters = linear->kernel().roofline;
  const auto total_us = [&](const cost::KernelPeaks& peaks) {
    return cost::roofline(product, reading.load, peaks, parameters).total_us;
  };
  return reading.latency_us * total_us(own_peaks) / total_us(linear->peaks());
}

double KernelCostModel::Impl::moe_bytes(const MoeWork& work) const {
  const double hidden = static_cast<double>(shape.hidden_size);
  const double inter = static_cast<double>(shape.expert_inter_size);
  const double weights = work.distinct_experts * expert_params() * experts->peaks().weight_bytes;
  // Tokens in and out once; per assignment gate, up, their product and the output, each written and
  // read once between the kernels.
  const double activations = 2 * work.tokens * hidden + work.assignments * (6 * inter + 2 * hidden);
  return weights + cost::kActivationBytes * activations;
}

double KernelCostModel::Impl::moe_flops(const MoeWork& work) const {
  return 2 * std::max(work.assignments, kCountedTileRows * work.distinct_experts) * expert_params();
}

void KernelCostModel::Impl::finish(CostEstimate& estimate, const HardwareState* state,
                                   double measured_w) const {
  if (!power) {
    estimate.energy_mj = measured_w * estimate.latency_us * 1e-3;
    return;
  }
  const TwinParameters& p = *power;
  double clock = p.clock_max_mhz, temperature = kWarmDieC;
  if (state != nullptr) {
    clock = std::clamp(state->sm_clock_mhz.value_or(clock), p.clock_min_mhz, clock);
    temperature = state->temperature_c.value_or(temperature);
  }
  const double full_us = estimate.latency_us;
  const auto modelled_w = [&](double mhz, double celsius) {
    return cost::power_w(p, mhz, celsius, cost::activity_of(estimate, estimate.latency_us));
  };
  // What the measurement says against the power model, at the clock that it was made at.
  const double scale = measured_w > 0 ? measured_w / modelled_w(p.clock_max_mhz, kWarmDieC) : 1;
  const double bound_us = full_us * estimate.clock_bound_frac * p.clock_max_mhz / clock;
  estimate.latency_us = full_us * cost::stretch(p, estimate.clock_bound_frac, clock);
  estimate.clock_bound_frac = bound_us / estimate.latency_us;
  estimate.energy_mj = scale * modelled_w(clock, temperature) * estimate.latency_us * 1e-3;
}

CostEstimate KernelCostModel::Impl::estimate_of(const cost::KernelReading& reading,
                                                const HardwareState* state) const {
  CostEstimate estimate;
  estimate.latency_us = reading.latency_us;
  estimate.clock_bound_frac = reading.clock_bound_frac;
  estimate.bytes = reading.work.bytes;
  estimate.flops = reading.work.flops;
  estimate.bound_by = reading.bound_by;
  estimate.source = reading.source;
  estimate.uncertainty_frac = reading.uncertainty_frac;
  finish(estimate, state, reading.power_w);
  return estimate;
}

KernelCostModel::KernelCostModel(const std::filesystem::path& profile_file, const CostShape& shape,
                                 const KernelChoice& choice)
    : impl_(std::make_unique<Impl>(profile_file, shape, choice)) {}
KernelCostModel::~KernelCostModel() = default;
KernelCostModel::KernelCostModel(KernelCostModel&&) noexcept = default;

const CostShape& KernelCostModel::shape() const { return impl_->shape; }
const TwinParameters& KernelCostModel::power() const {
  if (!impl_->power) throw ProfileMiss(impl_->device + ": its profile names no power profile");
  return *impl_->power;
}
const std::string& KernelCostModel::device() const { return impl_->device; }

CostEstimate KernelCostModel::moe_layer(const MoeWork& work_in, const HardwareState* state) const {
  if (!impl_->surface)
    throw InvalidArgument("moe_layer: the model was made for single operations, without a shape");
  check(work_in, impl_->shape);
  MoeWork work = work_in;
  work.distinct_experts = std::min<double>(work.distinct_experts, impl_->shape.experts);
  CostEstimate estimate;
  if (work.distinct_experts == 0) return estimate;
  work.assignments = std::max(work.assignments, work.distinct_experts);

  const cost::LatencySurface& surface = *impl_->surface;
  const auto reading = surface.at(work.distinct_experts, work.assignments);
  estimate.latency_us = reading.latency_us;
  estimate.bytes = impl_->moe_bytes(work);
  estimate.flops = impl_->moe_flops(work);
  // What reading the weights at the measured rate doesn't explain is bound to the clock: starting
  // kernels, and arithmetic where it takes longer than the reading.
  const double body_us = std::max(estimate.latency_us - surface.overhead_us(), 0.0);
  const double memory_us = std::min(surface.open_us() * work.distinct_experts, body_us);
  estimate.clock_bound_frac = 1 - memory_us / estimate.latency_us;
  if (estimate.latency_us - body_us > body_us) {
    estimate.bound_by = BoundBy::kOverhead;
  } else {
    estimate.bound_by = body_us > 2 * memory_us ? BoundBy::kCompute : BoundBy::kMemory;
  }
  const double skewed = std::max(impl_->layer_uncertainty_frac, surface.skewed_error_frac());
  if (reading.extrapolated) {
    estimate.source = CostSource::kRoofline;
    estimate.uncertainty_frac = std::max(kExtrapolatedErrorFrac, skewed);
  } else if (!impl_->layer_measured) {
    estimate.source = CostSource::kTransferred;
    estimate.uncertainty_frac = skewed;
  } else {
    estimate.source = reading.measured ? CostSource::kMeasured : CostSource::kInterpolated;
    estimate.uncertainty_frac = reading.measured ? kMeasuredErrorFrac : skewed;
  }
  impl_->finish(estimate, state, impl_->layer_power_w(work));
  return estimate;
}

CostSurrogate KernelCostModel::surrogate(double tokens, const HardwareState* state) const {
  const CostShape& shape = impl_->shape;
  if (!std::isfinite(tokens) || tokens <= 0)
    throw InvalidArgument(
        fmt::format("surrogate: {} tokens; give a batch of at least one", tokens));
  const double most = std::max<double>(tokens, 1) * shape.top_k;
  const double most_distinct = std::min<double>(most, shape.experts);
  const double least_distinct = std::min<double>(shape.top_k, most_distinct);
  constexpr int kSteps = 12;  // along each axis
  std::vector<cost::FitPoint> latency, energy;
  std::vector<double> full_distinct, full_us;  // at the batch's full assignments
  for (int i = 0; i <= kSteps; ++i) {
    const double distinct = least_distinct + (most_distinct - least_distinct) * i / kSteps;
    for (int j = 0; j <= kSteps; ++j) {
      const double assignments = distinct + (most - distinct) * j / kSteps;
      const CostEstimate e = moe_layer({tokens, distinct, assignments}, state);
      latency.push_back({{1.0, distinct, assignments}, e.latency_us});
      energy.push_back({{1.0, distinct, assignments}, e.energy_mj});
    }
    if (!full_distinct.empty() && distinct <= full_distinct.back()) continue;  // a single value
    full_distinct.push_back(distinct);
    full_us.push_back(latency.back().y);
  }
  const auto us = cost::fit_nonnegative(latency);
  const auto mj = cost::fit_nonnegative(energy);
  CostSurrogate fit{us[0], us[1], us[2], mj[0], mj[1], mj[2], 0.0, 0.0};
  fit.envelope_gap_frac = cost::envelope_gap(full_distinct, full_us).largest_frac;
  for (const cost::FitPoint& p : latency)
    fit.fit_error_frac += std::abs(us[0] * p.x[0] + us[1] * p.x[1] + us[2] * p.x[2] - p.y) / p.y;
  fit.fit_error_frac /= static_cast<double>(latency.size());
  return fit;
}

}  // namespace thermoe
