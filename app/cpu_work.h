// The CPU's kernels on random weights, one call at a time, timed.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "cost/kernel_shape.h"
#include "model/dense_products.h"
#include "thermoe/moe_layer.h"
#include "thermoe/thread_pool.h"

namespace thermoe::app {

// A plan with the given tokens for each expert (none more than there are tokens, tokens * top_k in
// all), its slots weighted alike. Throws InvalidArgument where there is none.
RoutingPlan plan_with_counts(const std::vector<int64_t>& counts, int64_t tokens, int top_k);

// The kernel of one operation at one shape, whatever its load.
class CpuWork {
 public:
  virtual ~CpuWork() = default;
  // Sets the batch that run_us() works on.
  virtual void prepare(int64_t tokens, double load_exponent) = 0;
  // Microseconds of one call.
  virtual double run_us(ThreadPool& pool) = 0;
};

// kExperts: a MoeLayer's pass from the plan on: permutation, experts, combine; what scores the
// tokens isn't counted. kLinear: a product of rows that are packed already. Weights are bf16 and as
// small as a checkpoint's, so that no value on the way is denormal.
std::unique_ptr<CpuWork> make_cpu_work(const cost::KernelShape& shape);

}  // namespace thermoe::app
