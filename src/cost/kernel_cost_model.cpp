#include "thermoe/kernel_cost_model.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "cost/convex_envelope.h"
#include "cost/latency_profile.h"
#include "cost/latency_surface.h"
#include "cost/least_squares.h"
#include "cost/power_model.h"
#include "thermoe/error.h"

namespace thermoe {
namespace {

constexpr double kBytesPerValue = 2;  // bf16 weights and activations
// Die temperature under load in the recorded trace: energy without a state is charged there.
constexpr double kWarmDieC = 62;
// Repeatability of the tables: two runs of one version differ by about this much.
constexpr double kMeasuredErrorFrac = 0.02;
// Roofline of the dense part (assumptions, docs/cost-model.md): share of the peak that streaming
// weights reaches, kernels a layer and the time that starting one costs inside a CUDA graph.
constexpr double kStreamEfficiency = 0.85;
constexpr double kDenseKernelsPerLayer = 8;
constexpr double kKernelStartUs = 2;
constexpr double kRooflineErrorFrac = 0.2;

bool same_shape(const cost::MeasuredShape& a, const CostShape& b) {
  return a.hidden_size == b.hidden_size && a.expert_inter_size == b.expert_inter_size &&
         a.experts == b.experts && a.top_k == b.top_k;
}

const cost::MeasuredShape& find_shape(const cost::LatencyProfile& profile, const CostShape& shape,
                                      const std::filesystem::path& file) {
  std::string covered;
  for (const cost::MeasuredShape& measured : profile.shapes) {
    if (same_shape(measured, shape)) return measured;
    covered += fmt::format("{}{}x{} E={} k={}", covered.empty() ? "" : ", ", measured.hidden_size,
                           measured.expert_inter_size, measured.experts, measured.top_k);
  }
  throw ProfileMiss(
      fmt::format("{}: no measurement of {} ({}x{} E={} k={}, hidden x expert width); covered: {}",
                  file.string(), shape.name, shape.hidden_size, shape.expert_inter_size,
                  shape.experts, shape.top_k, covered));
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

}  // namespace

struct KernelCostModel::Impl {
  Impl(const std::filesystem::path& file, const CostShape& shape_in)
      : shape(shape_in),
        profile(cost::read_latency_profile(file)),
        power(read_twin_parameters(profile.power_file)),
        surface(find_shape(profile, shape_in, file)) {}

  double expert_params() const {
    return 3.0 * static_cast<double>(shape.hidden_size) *
           static_cast<double>(shape.expert_inter_size);
  }
  double moe_bytes(const MoeWork& work) const;
  double moe_flops(const MoeWork& work) const;
  // Scales an estimate at the maximum clock to the state's, and charges its energy.
  void finish(CostEstimate& estimate, const HardwareState* state) const;

  CostShape shape;
  cost::LatencyProfile profile;
  TwinParameters power;
  cost::LatencySurface surface;
};

double KernelCostModel::Impl::moe_bytes(const MoeWork& work) const {
  const double hidden = static_cast<double>(shape.hidden_size);
  const double inter = static_cast<double>(shape.expert_inter_size);
  const double weights = work.distinct_experts * expert_params();
  // Tokens in and out once; per assignment gate, up, their product and the output, each written and
  // read once between the kernels.
  const double activations = 2 * work.tokens * hidden + work.assignments * (6 * inter + 2 * hidden);
  return kBytesPerValue * (weights + activations);
}

double KernelCostModel::Impl::moe_flops(const MoeWork& work) const {
  const double rows = std::max(work.assignments, profile.tile_rows * work.distinct_experts);
  return 2 * rows * expert_params();
}

void KernelCostModel::Impl::finish(CostEstimate& estimate, const HardwareState* state) const {
  double clock = power.clock_max_mhz, temperature = kWarmDieC;
  if (state != nullptr) {
    clock = std::clamp(state->sm_clock_mhz.value_or(clock), power.clock_min_mhz, clock);
    temperature = state->temperature_c.value_or(temperature);
  }
  const double full_us = estimate.latency_us;
  const double bound_us = full_us * estimate.clock_bound_frac * power.clock_max_mhz / clock;
  estimate.latency_us = full_us * cost::stretch(power, estimate.clock_bound_frac, clock);
  estimate.clock_bound_frac = bound_us / estimate.latency_us;
  const double watts =
      cost::power_w(power, clock, temperature, cost::activity_of(estimate, estimate.latency_us));
  estimate.energy_mj = watts * estimate.latency_us * 1e-3;
}

KernelCostModel::KernelCostModel(const std::filesystem::path& profile_file, const CostShape& shape)
    : impl_(std::make_unique<Impl>(profile_file, shape)) {}
KernelCostModel::~KernelCostModel() = default;
KernelCostModel::KernelCostModel(KernelCostModel&&) noexcept = default;

const CostShape& KernelCostModel::shape() const { return impl_->shape; }
const TwinParameters& KernelCostModel::power() const { return impl_->power; }
const std::string& KernelCostModel::device() const { return impl_->profile.device; }

CostEstimate KernelCostModel::moe_layer(const MoeWork& work_in, const HardwareState* state) const {
  check(work_in, impl_->shape);
  MoeWork work = work_in;
  work.distinct_experts = std::min<double>(work.distinct_experts, impl_->shape.experts);
  CostEstimate estimate;
  if (work.distinct_experts == 0) return estimate;
  work.assignments = std::max(work.assignments, work.distinct_experts);

  const cost::LatencySurface& surface = impl_->surface;
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
  if (reading.measured) {
    estimate.source = CostSource::kMeasured;
    estimate.uncertainty_frac = kMeasuredErrorFrac;
  } else {
    estimate.source = reading.extrapolated ? CostSource::kRoofline : CostSource::kInterpolated;
    const double error = std::max(kMeasuredErrorFrac, surface.skewed_error_frac());
    estimate.uncertainty_frac = reading.extrapolated ? std::max(kRooflineErrorFrac, error) : error;
  }
  impl_->finish(estimate, state);
  return estimate;
}

CostEstimate KernelCostModel::dense_step(double tokens, const HardwareState* state) const {
  if (!std::isfinite(tokens) || tokens < 0)
    throw InvalidArgument(fmt::format("dense_step: {} tokens", tokens));
  CostEstimate estimate;
  estimate.source = CostSource::kRoofline;
  if (tokens == 0) return estimate;
  const CostShape& shape = impl_->shape;
  const double params =
      static_cast<double>(shape.dense_params_per_layer * shape.layers + shape.head_params);
  estimate.bytes = kBytesPerValue * params;
  estimate.flops = 2 * params * std::max(tokens, impl_->profile.tile_rows);
  const double memory_us =
      estimate.bytes / (kStreamEfficiency * impl_->power.memory_bytes_per_s) * 1e6;
  const double compute_us = estimate.flops / impl_->power.tensor_flops_per_s * 1e6;
  const double overhead_us = kDenseKernelsPerLayer * kKernelStartUs * shape.layers;
  estimate.latency_us = overhead_us + std::max(memory_us, compute_us);
  estimate.clock_bound_frac = 1 - std::min(memory_us / estimate.latency_us, 1.0);
  if (compute_us > memory_us) estimate.clock_bound_frac = 1 - memory_us / estimate.latency_us;
  estimate.bound_by = overhead_us > std::max(memory_us, compute_us) ? BoundBy::kOverhead
                      : compute_us > memory_us                      ? BoundBy::kCompute
                                                                    : BoundBy::kMemory;
  estimate.uncertainty_frac = kRooflineErrorFrac;
  impl_->finish(estimate, state);
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
