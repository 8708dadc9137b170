// KernelCostModel's single operations, and the dense part of a step that is made of them.
#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "cost/kernel_cost_model_impl.h"
#include "cost/moe_load.h"
#include "thermoe/error.h"

namespace thermoe {
namespace {

// Assumptions for what no table covers (docs/cost-model.md): the share of the memory's peak that
// streaming reaches, of the matrix peak that attention does in prefill, and the time that starting
// a kernel costs inside a CUDA graph.
constexpr double kStreamEfficiency = 0.85;
constexpr double kAttentionEfficiency = 0.6;
constexpr double kKernelStartUs = 2;
constexpr double kRooflineErrorFrac = 0.2;
// A dense product measured on another device, by its efficiency there.
constexpr double kOtherDeviceErrorFrac = 0.15;

void require_sizes(bool holds, const char* what) {
  if (!holds)
    throw InvalidArgument(
        fmt::format("{} must be positive and finite, and divide where split", what));
}

bool positive(double x) { return std::isfinite(x) && x > 0; }

// Whichever of reading and computing takes longer, after the start.
CostEstimate from_roofline(double start_us, double memory_us, double compute_us, double bytes,
                           double flops) {
  CostEstimate e;
  e.latency_us = start_us + std::max(memory_us, compute_us);
  e.bytes = bytes;
  e.flops = flops;
  const bool compute = compute_us > memory_us;
  e.clock_bound_frac = compute ? 1.0 : 1 - memory_us / e.latency_us;
  e.bound_by = start_us > std::max(memory_us, compute_us) ? BoundBy::kOverhead
               : compute                                  ? BoundBy::kCompute
                                                          : BoundBy::kMemory;
  e.source = CostSource::kRoofline;
  e.uncertainty_frac = kRooflineErrorFrac;
  return e;
}

}  // namespace

void add(CostEstimate& sum, const CostEstimate& part, double times) {
  const double part_us = part.latency_us * times;
  if (part_us <= 0) return;
  const double before_us = sum.latency_us;
  const double total_us = before_us + part_us;
  const auto by_time = [&](double a, double b) { return (a * before_us + b * part_us) / total_us; };
  sum.clock_bound_frac = by_time(sum.clock_bound_frac, part.clock_bound_frac);
  sum.sm_active_frac = by_time(sum.sm_active_frac, part.sm_active_frac);
  sum.uncertainty_frac = by_time(sum.uncertainty_frac, part.uncertainty_frac);
  if (part_us > before_us) sum.bound_by = part.bound_by;
  if (part_us > before_us || (part_us == before_us && part.source > sum.source))
    sum.source = part.source;
  sum.latency_us = total_us;
  sum.energy_mj += part.energy_mj * times;
  sum.bytes += part.bytes * times;
  sum.flops += part.flops * times;
}

CostEstimate KernelCostModel::experts(const ExpertsQuery& q, const HardwareState* state) const {
  require_sizes(
      q.hidden_size > 0 && q.expert_inter_size > 0 && q.tp > 0 && q.expert_inter_size % q.tp == 0 &&
          q.top_k > 0 && q.top_k <= q.experts && q.ep > 0 && q.experts % q.ep == 0,
      "experts: hidden_size, expert_inter_size, experts, top_k (at most experts), tp and ep");
  const cost::KernelShape shape{cost::Operation::kExperts,
                                q.hidden_size,
                                q.expert_inter_size,
                                q.experts,
                                q.top_k,
                                q.tp,
                                q.ep,
                                cost::load_exponent(q.distribution)};
  return impl_->estimate_of(impl_->experts->curve(shape).at(q.tokens), state);
}

CostEstimate KernelCostModel::linear(const LinearQuery& q, const HardwareState* state) const {
  require_sizes(q.inputs > 0 && q.outputs > 0, "linear: inputs and outputs");
  if (!impl_->linear)
    throw ProfileMiss(
        fmt::format("{}: its profile has no dense products and names no table of them "
                    "(linear_profile); make one "
                    "with thermoe fit from a gemm table",
                    impl_->device));
  const cost::KernelShape shape{
      .op = cost::Operation::kLinear, .hidden_size = q.inputs, .inter_size = q.outputs};
  cost::KernelReading reading = impl_->linear->curve(shape).at(q.tokens);
  if (!impl_->linear_transferred) return impl_->estimate_of(reading, state);
  // The other device's time, by the ratio of the rooflines: its efficiency is taken over.
  reading.latency_us = impl_->linear_on_own_device_us(shape, reading);
  reading.power_w = 0;
  if (reading.source != CostSource::kRoofline) reading.source = CostSource::kTransferred;
  reading.uncertainty_frac = std::hypot(reading.uncertainty_frac, kOtherDeviceErrorFrac);
  return impl_->estimate_of(reading, state);
}

CostEstimate KernelCostModel::attention(const AttentionQuery& q, const HardwareState* state) const {
  require_sizes(
      positive(q.sequences) && positive(q.query_tokens) && positive(q.context_tokens) &&
          q.context_tokens >= q.query_tokens && q.heads > 0 && q.kv_heads > 0 &&
          q.heads % q.kv_heads == 0 && q.head_dim > 0 && positive(q.kv_bytes_per_value),
      "attention: sequences, query_tokens (at most context_tokens), heads, kv_heads and head_dim");
  const double dim = static_cast<double>(q.head_dim);
  const double width = static_cast<double>(q.heads) * dim;
  const double kv_width = static_cast<double>(q.kv_heads) * dim;
  // Causal: query token i of n sees all but the n - i after it.
  const double pairs = q.sequences * q.query_tokens * (q.context_tokens - (q.query_tokens - 1) / 2);
  const double bytes = q.sequences * q.context_tokens * 2 * kv_width * q.kv_bytes_per_value +
                       q.sequences * q.query_tokens * 2 * width * cost::kActivationBytes;
  const double flops = 4 * pairs * width;
  const cost::KernelPeaks& peaks = impl_->own_peaks;
  CostEstimate e = from_roofline(kKernelStartUs, bytes / (kStreamEfficiency * peaks.bytes_per_us),
                                 flops / (kAttentionEfficiency * peaks.flops_per_us), bytes, flops);
  impl_->finish(e, state);
  return e;
}

CostEstimate KernelCostModel::elementwise(const ElementwiseQuery& q,
                                          const HardwareState* state) const {
  require_sizes(positive(q.tokens) && q.width > 0 && q.reads >= 0 && q.writes >= 0,
                "elementwise: tokens, width, reads and writes");
  const double bytes = q.tokens * static_cast<double>(q.width) * cost::kActivationBytes *
                       static_cast<double>(q.reads + q.writes);
  CostEstimate e = from_roofline(
      kKernelStartUs, bytes / (kStreamEfficiency * impl_->own_peaks.bytes_per_us), 0, bytes, 0);
  impl_->finish(e, state);
  return e;
}

CostEstimate KernelCostModel::dense_step(double tokens, const HardwareState* state,
                                         double context_tokens) const {
  const CostShape& s = impl_->shape;
  require_sizes(
      positive(tokens) && s.layers > 0 && std::isfinite(context_tokens) && context_tokens >= 0,
      "dense_step: tokens, and the shape's sizes");
  const auto product = [&](int64_t inputs, int64_t outputs) {
    if (impl_->linear) return linear({std::max(tokens, 1.0), inputs, outputs}, state);
    const double bytes = cost::kActivationBytes * static_cast<double>(inputs * outputs);
    const double flops = 2 * static_cast<double>(inputs * outputs) * tokens;
    CostEstimate e =
        from_roofline(kKernelStartUs, bytes / (kStreamEfficiency * impl_->own_peaks.bytes_per_us),
                      flops / impl_->own_peaks.flops_per_us, bytes, flops);
    impl_->finish(e, state);
    return e;
  };
  const int64_t width = s.heads * s.head_dim, kv_width = s.kv_heads * s.head_dim;
  CostEstimate layer;
  add(layer, product(s.hidden_size, width + 2 * kv_width));
  add(layer, product(width, s.hidden_size));
  add(layer, product(s.hidden_size, s.experts));  // the gate
  // Two norms with their residuals, and the rotation (with the norms, where there are any) of
  // queries and keys.
  add(layer, elementwise({tokens, s.hidden_size, 2, 2}, state), 2);
  add(layer, elementwise({tokens, width + kv_width, 1, 1}, state));
  if (s.shared_inter_size > 0) {
    add(layer, product(s.hidden_size, 2 * s.shared_inter_size));
    add(layer, elementwise({tokens, s.shared_inter_size, 2, 1}, state));
    add(layer, product(s.shared_inter_size, s.hidden_size));
  }
  if (context_tokens > 0)
    add(layer,
        attention({tokens, 1, std::max(context_tokens, 1.0), s.heads, s.kv_heads, s.head_dim},
                  state));
  CostEstimate step;
  add(step, layer, s.layers);
  add(step, product(s.hidden_size, s.vocabulary));
  return step;
}

}  // namespace thermoe
