// Which shapes and token counts a calibration measures.
#pragma once

#include <array>
#include <string>
#include <vector>

#include "sweep.h"

namespace thermoe::app {

struct SweepPlan {
  std::vector<cost::KernelShape> shapes;  // experts without a load, and dense products
  std::vector<int64_t> tokens;
  std::vector<std::string> dtypes = {"bf16"};
  std::vector<std::string> kernels = {""};        // SweepPoint::kernel
  std::vector<double> load_exponents = {0, 1.2};  // the skewed one: the tables' more skewed
  // Points with warm weights: of balanced loads up to so many tokens; 0: of all; < 0: of none.
  int64_t most_warm_tokens = 0;
  // Cold points of balanced loads at these counts are repeated for power_s, for their power.
  std::vector<int64_t> power_tokens = {};
  double power_s = 0;
};

// The shipped nano model's experts and dense products and neighbours of theirs, enough of them for
// errors on shapes held out; `quick`: fewer, for a first look.
SweepPlan default_sweep(bool quick);

// For a GPU: the experts of published models and neighbours of theirs, in the precisions that its
// kernels have, up to 256 tokens. Warm only where few experts may stay in the cache.
SweepPlan default_gpu_sweep(bool quick);
// The types that some kernel has.
inline constexpr std::array<const char*, 4> kGpuDtypes = {"bf16", "int8", "int4", "fp8"};
// The published models' experts at few and many tokens by each of these kernels, weights cold: what
// a choice among kernels rests on.
SweepPlan gpu_kernel_sweep(bool quick, const std::string& dtype,
                           const std::vector<std::string>& kernels);
// The same by a kernel for many tokens, more of them, with power: what prefill costs.
SweepPlan gpu_prefill_sweep(bool quick, const std::string& dtype, const std::string& kernel);
inline constexpr int kMostGpuWeightsLog2 = 33;  // 16 GiB of bf16

// "256x64e32k4": 32 experts of [hidden 256, intermediate 64], 4 chosen by a token; "256x4096": a
// dense product of 256 inputs and 4096 outputs. Throws InvalidArgument, also where it has more
// weights than 2^most_weights_log2.
cost::KernelShape parse_shape(const std::string& text, int most_weights_log2 = 31);

// Every shape's points together, type by type, as their weights are made but once: under each load,
// by tokens, with warm and with cold weights.
std::vector<SweepPoint> points_of(const SweepPlan& plan);

}  // namespace thermoe::app
