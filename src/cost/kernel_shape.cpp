#include "cost/kernel_shape.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>

#include "cost/moe_load.h"
#include "thermoe/error.h"

namespace thermoe::cost {
namespace {

constexpr double kPadInter = 64;  // columns of a tile that are computed, needed or not

// Experts without a gate, from the models' published config.json (hidden, inter, experts, top_k).
struct ExpertSizes {
  int64_t hidden, inter;
  int experts, top_k;
};
constexpr std::array<ExpertSizes, 5> kUngated = {{{2688, 1856, 128, 6},
                                                  {1024, 2688, 512, 22},
                                                  {4096, 2688, 512, 22},
                                                  {2048, 5120, 512, 22},
                                                  {8192, 5120, 512, 22}}};

struct Type {
  const char* name;
  double weight_bytes;  // scales included
  double flops_factor;  // of the bf16 rate
};
// Group scales: one byte per 32 (mx) or 16 (nv) weights, two per 32 (int4).
constexpr std::array<Type, 8> kTypes = {{{"bf16", 2, 1},
                                         {"fp8", 1, 2},
                                         {"fp8_block", 1, 2},
                                         {"int8", 1, 2},
                                         {"int4", 0.5625, 1},
                                         {"w4a16_mxfp4", 0.53125, 1},
                                         {"w4a8_mxfp4_mxfp8", 0.53125, 2},
                                         {"nvfp4", 0.5625, 4}}};

double log2_of(int64_t x) { return std::log2(static_cast<double>(x)); }

// Powers of two in x, at most 4: below that neither vector loads nor asynchronous copies line up.
double alignment(int64_t x) {
  int powers = 0;
  while (powers < 4 && x % 2 == 0 && x > 0) {
    x /= 2;
    ++powers;
  }
  return powers;
}

KernelLoad whole_load(const KernelShape& shape, int64_t tokens) {
  const MoeLoad load =
      expected_load(tokens, shape.experts, shape.top_k, shape.ep, shape.load_exponent);
  return {static_cast<double>(tokens), load.assignments, load.distinct, load.tile_rows};
}

}  // namespace

const char* const kRooflineNames[kRooflineParameters] = {"launch_us",
                                                         "weight_time_per_peak",
                                                         "activation_time_per_peak",
                                                         "tile_time_per_peak",
                                                         "flop_time_per_peak",
                                                         "routing_us_per_1000_assignments",
                                                         "chain_us_per_1000_hidden",
                                                         "chain_us_per_1000_inter",
                                                         "overlap_exponent",
                                                         "expert_us_per_1000"};

const char* name_of(Operation op) { return op == Operation::kExperts ? "moe" : "gemm"; }

std::string text_of(const KernelShape& s) {
  if (s.op == Operation::kLinear) return fmt::format("n={} k={}", s.inter_size, s.hidden_size);
  return fmt::format("{}x{} E={} k={} tp={} ep={} {}", s.hidden_size, s.inter_size, s.experts,
                     s.top_k, s.tp, s.ep, distribution_name(s.load_exponent));
}

int projections_of(const KernelShape& s) {
  const bool ungated = std::any_of(kUngated.begin(), kUngated.end(), [&](const ExpertSizes& u) {
    return u.hidden == s.hidden_size && u.inter == s.inter_size && u.experts == s.experts &&
           u.top_k == s.top_k;
  });
  return ungated ? 2 : 3;
}

std::vector<double> features_of(const KernelShape& s) {
  if (s.op == Operation::kLinear)
    return {log2_of(s.hidden_size), log2_of(s.inter_size), alignment(s.inter_size)};
  return {log2_of(s.hidden_size), log2_of(s.local_inter()),
          log2_of(s.top_k),       log2_of(s.local_experts()),
          log2_of(s.ep),          alignment(s.local_inter()),
          s.load_exponent};
}

std::vector<double> lengths_of(Operation op) {
  if (op == Operation::kLinear) return {1.5, 1.5, 2};
  return {2.2, 2.5, 1.5, 2.0, 2.5, 2.0, 1.0};
}

KernelPeaks peaks_of(const std::string& dtype, double memory_bytes_per_s, double bf16_flops_per_s) {
  std::string known;
  for (const Type& type : kTypes) {
    if (dtype == type.name)
      return {memory_bytes_per_s * 1e-6, bf16_flops_per_s * 1e-6 * type.flops_factor,
              type.weight_bytes};
    known += (known.empty() ? "" : ", ") + std::string(type.name);
  }
  throw InvalidArgument(fmt::format("type \"{}\" is not known; use one of {}", dtype, known));
}

RooflineParameters roofline_start() { return {20, 1.2, 1.5, 0.5, 0.5, 0.1, 5, 5, 4, 1}; }

KernelLoad load_of(const KernelShape& shape, double tokens) {
  if (shape.op == Operation::kLinear) return {tokens, tokens, 1, tokens};
  const double below = std::floor(tokens);
  const KernelLoad low = whole_load(shape, static_cast<int64_t>(std::max(below, 1.0)));
  if (below == tokens || below < 1) return low;
  const KernelLoad high = whole_load(shape, static_cast<int64_t>(below) + 1);
  const double w = tokens - below;
  const auto mix = [w](double a, double b) { return a + w * (b - a); };
  return {tokens, mix(low.assignments, high.assignments), mix(low.distinct, high.distinct),
          mix(low.tile_rows, high.tile_rows)};
}

namespace {

// FLOPs that are computed, needed or not, of one row of activations.
double flops_per_row(double hidden, double inter, double matrices, const KernelPeaks& peaks) {
  const double padded = std::ceil(inter / kPadInter) * kPadInter;
  if (peaks.stage_columns <= 0) return 2 * matrices * hidden * padded;
  const auto staged = [&](double columns) {
    return std::ceil(columns / peaks.stage_columns) * peaks.stage_columns;
  };
  // All but the last product read `hidden` columns.
  return 2 * ((matrices - 1) * staged(hidden) * inter + hidden * staged(inter));
}

}  // namespace

KernelWork work_of(const KernelShape& s, const KernelLoad& load, const KernelPeaks& peaks) {
  const double hidden = static_cast<double>(s.hidden_size);
  const double inter = static_cast<double>(s.local_inter());
  if (s.op == Operation::kLinear)
    return {peaks.weight_bytes * hidden * inter + kActivationBytes * load.tokens * (hidden + inter),
            2 * hidden * inter * load.tokens};
  const double params = projections_of(s) * hidden * inter;
  const double activations =
      kActivationBytes *
      (load.tokens * hidden + load.assignments * (2 * hidden + projections_of(s) * inter));
  return {load.distinct * params * peaks.weight_bytes + activations, 2 * params * load.assignments};
}

RooflineTime roofline(const KernelShape& s, const KernelLoad& load, const KernelPeaks& peaks,
                      const RooflineParameters& p) {
  const double hidden = static_cast<double>(s.hidden_size);
  const double inter = static_cast<double>(s.local_inter());
  const bool experts = s.op == Operation::kExperts;
  const double matrices = experts ? projections_of(s) : 1;
  const double weights = load.distinct * matrices * hidden * inter * peaks.weight_bytes;
  const double activations =
      kActivationBytes *
      (load.tokens * hidden +
       (experts ? load.assignments * (2 * hidden + matrices * inter) : load.tokens * inter));
  const double per_row = flops_per_row(hidden, inter, matrices, peaks) / peaks.flops_per_us;
  const double choices = load.tokens * s.top_k;
  RooflineTime t;
  t.launch_us = p[0] + (experts ? choices * 1e-3 * p[5] + s.local_experts() * 1e-3 * p[9] : 0.0);
  t.memory_us = (weights * p[1] + activations * p[2]) / peaks.bytes_per_us;
  t.compute_us = per_row * (load.tile_rows * p[3] + load.assignments * p[4]);
  t.chain_us = hidden * 1e-3 * p[6] + inter * 1e-3 * p[7];
  const double q = std::clamp(p[8], 0.5, 16.0);
  // Scaled by the largest, so that no power overflows.
  const double most = std::max({t.memory_us, t.compute_us, t.chain_us, 1e-9});
  const double sum = std::pow(t.memory_us / most, q) + std::pow(t.compute_us / most, q) +
                     std::pow(t.chain_us / most, q);
  const double body_us = most * std::pow(sum, 1 / q);
  t.total_us = t.launch_us + body_us;
  t.memory_share = std::pow(t.memory_us / most, q) / sum * body_us / t.total_us;
  return t;
}

}  // namespace thermoe::cost
