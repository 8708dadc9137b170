// What must hold of the costs of single operations, whatever the tables say.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

#include "cost/kernel_model.h"
#include "cost/operations.h"
#include "cost/paths.h"
#include "thermoe/error.h"
#include "thermoe/kernel_cost_model.h"

namespace thermoe {
namespace {

using test::device;
using test::experts_of;
using test::h100;
using test::source_path;

// The measured curves behind linear() and experts() may fall; what they are held against may not.
TEST(Roofline, NeverFallsInTokensOrSizes) {
  for (const char* name : {"h100-sxm", "a100-sxm", "h200-sxm-gemm"}) {
    const auto profile =
        cost::read_kernel_profile(source_path(std::string("data/profiles/") + name + ".json"));
    const cost::MeasuredKernel& kernel = profile.kernels.back();
    const auto peaks =
        cost::peaks_of(kernel.dtype, profile.memory_bytes_per_s, profile.bf16_flops_per_s);
    const auto us = [&](int64_t hidden, int64_t inter, double tokens) {
      cost::KernelShape shape{kernel.op, hidden, inter, 128, 8, 1, 1, 0};
      if (kernel.op == cost::Operation::kLinear) shape.experts = shape.top_k = 1;
      const auto time = cost::roofline(shape, cost::load_of(shape, tokens), peaks, kernel.roofline);
      EXPECT_GE(time.memory_share, 0);
      EXPECT_LE(time.memory_share, 1);
      EXPECT_GE(time.total_us,
                time.launch_us +
                    std::max({time.memory_us, time.compute_us, time.chain_us}) * (1 - 1e-12));
      return time.total_us;
    };
    for (int64_t hidden : {512, 2048, 8192})
      for (int64_t inter : {100, 768, 4096})
        for (double tokens : {1.0, 7.0, 16.0, 333.0, 8192.0}) {
          const double base = us(hidden, inter, tokens) * (1 - 1e-12);
          EXPECT_GE(us(hidden, inter, tokens + 1), base);
          EXPECT_GE(us(hidden, inter, tokens * 2), base);
          EXPECT_GE(us(hidden * 2, inter, tokens), base);
          EXPECT_GE(us(hidden, inter + 1, tokens), base);
        }
  }
}

TEST(Attention, NeverFallsAndReadsTheCache) {
  const KernelCostModel& m = h100();
  const AttentionQuery base{16, 1, 2000, 32, 4, 128};
  const double us = m.attention(base).latency_us;
  for (int change = 0; change < 6; ++change) {
    AttentionQuery q = base;
    if (change == 0) q.sequences *= 2;
    if (change == 1) q.query_tokens = 8;
    if (change == 2) q.context_tokens *= 2;
    if (change == 3) q.heads *= 2;
    if (change == 4) q.kv_heads *= 2;
    if (change == 5) q.head_dim *= 2;
    EXPECT_GE(m.attention(q).latency_us, us) << change;
    EXPECT_GE(m.attention(q).energy_mj, m.attention(base).energy_mj) << change;
  }
  // Grouped queries: keys and values of 4 heads, whatever the 32 that read them; then queries in
  // and results out.
  const CostEstimate decode = m.attention(base);
  const double cache = 16 * 2000.0 * 2 * 4 * 128 * 2, io = 16 * 2 * 32 * 128 * 2.0;
  EXPECT_DOUBLE_EQ(decode.bytes, cache + io);
  EXPECT_DOUBLE_EQ(decode.flops, 16 * 4 * 2000.0 * 32 * 128);
  EXPECT_EQ(decode.bound_by, BoundBy::kMemory);
  AttentionQuery small = base;
  small.kv_bytes_per_value = 1;
  EXPECT_DOUBLE_EQ(m.attention(small).bytes, cache / 2 + io);
  // A causal prefill sees half of the square.
  const CostEstimate prefill = m.attention({1, 4096, 4096, 32, 4, 128});
  EXPECT_NEAR(prefill.flops / (4 * 4096.0 * 4096 / 2 * 32 * 128), 1, 1e-3);
  EXPECT_EQ(prefill.bound_by, BoundBy::kCompute);
}

TEST(Elementwise, IsItsTrafficAfterTheStart) {
  const KernelCostModel& m = h100();
  EXPECT_DOUBLE_EQ(m.elementwise({100, 2048, 2, 1}).bytes, 100 * 2048 * 3 * 2.0);
  double last = 0;
  for (double tokens : {1.0, 10.0, 1e3, 1e5, 1e6}) {
    const double us = m.elementwise({tokens, 2048, 2, 1}).latency_us;
    EXPECT_GT(us, last);
    EXPECT_LE(us, m.elementwise({tokens, 4096, 2, 1}).latency_us);
    EXPECT_LE(us, m.elementwise({tokens, 2048, 3, 1}).latency_us);
    last = us;
  }
  EXPECT_EQ(m.elementwise({1, 64, 1, 1}).bound_by, BoundBy::kOverhead);
  EXPECT_EQ(m.elementwise({1e6, 2048, 2, 1}).bound_by, BoundBy::kMemory);
}

TEST(Linear, IsMeasuredOnItsOwnDeviceAndTransferredToOthers) {
  const auto table = cost::read_kernel_profile(source_path("data/profiles/h200-sxm-gemm.json"));
  const auto& kernel = cost::find_kernel(table, cost::Operation::kLinear, "bf16", "");
  const auto& curve = kernel.curves[40];
  const LinearQuery query{kernel.tokens[20], curve.shape.hidden_size, curve.shape.inter_size};
  const CostEstimate own = device("h200-sxm").linear(query);
  EXPECT_EQ(own.latency_us, curve.latency_us[20]);
  EXPECT_EQ(own.source, CostSource::kMeasured);
  // The same arithmetic, with less bandwidth.
  const CostEstimate other = h100().linear(query);
  EXPECT_EQ(other.source, CostSource::kTransferred);
  EXPECT_GT(other.uncertainty_frac, 0.15);
  EXPECT_GE(other.latency_us, own.latency_us);
  EXPECT_LE(other.latency_us, own.latency_us * 4.8 / 3.35 * 1.001);
  const CostEstimate faster = device("b200-sxm").linear(query);
  EXPECT_LT(faster.latency_us, own.latency_us);
}

TEST(Experts, SplittingThemLeavesLessToEach) {
  for (double tokens : {16.0, 1024.0}) {
    ExpertsQuery query = experts_of("qwen3-235b-a22b", tokens);
    const CostEstimate whole = h100().experts(query);
    for (const auto& [tp, ep] : {std::pair(2, 1), {1, 2}, {4, 1}, {1, 8}}) {
      query.tp = tp;
      query.ep = ep;
      const CostEstimate part = h100().experts(query);
      EXPECT_LT(part.latency_us, whole.latency_us) << tp << " " << ep;
      EXPECT_LT(part.bytes, whole.bytes);
      EXPECT_LT(part.energy_mj, whole.energy_mj);
      EXPECT_GT(part.latency_us, whole.latency_us / (1.5 * tp * ep));
    }
  }
  // Narrower weights are less to read, if not always read faster.
  const KernelCostModel fp8 = device("h100-sxm", {}, {"fp8", ""});
  const ExpertsQuery decode = experts_of("qwen3-30b-a3b", 16);
  EXPECT_LT(fp8.experts(decode).bytes, 0.6 * h100().experts(decode).bytes);
  // The same layer by another way.
  EXPECT_NEAR(h100().experts(decode).latency_us, h100().moe_layer({16, 128, 128}).latency_us, 1e-6);
}

TEST(DenseStep, ReadsTheDenseWeightsOnce) {
  for (const CostShape& shape : known_cost_shapes()) {
    const KernelCostModel model = device("h100-sxm", shape);
    const CostEstimate step = model.dense_step(1);
    const double weights = 2.0 * static_cast<double>(shape.dense_params_per_layer() * shape.layers +
                                                     shape.head_params());
    EXPECT_NEAR(step.bytes / weights, 1, 0.01) << shape.name;
    EXPECT_NEAR(step.flops / weights, 1, 0.01) << shape.name;
    EXPECT_GT(step.latency_us, weights / 3.35e12 * 1e6) << shape.name;
    // A longer context only adds its cache.
    double last_us = step.latency_us;
    for (double context : {1.0, 1000.0, 30000.0}) {
      const CostEstimate longer = model.dense_step(1, nullptr, context);
      EXPECT_GT(longer.latency_us, last_us);
      const double cache = context * 4.0 * static_cast<double>(shape.kv_heads * shape.head_dim);
      EXPECT_NEAR(longer.bytes - step.bytes, cache * shape.layers, 0.01 * step.bytes);
      last_us = longer.latency_us;
    }
  }
}

TEST(Operations, RefuseNonsense) {
  const KernelCostModel& m = h100();
  const double nan = std::nan("");
  EXPECT_THROW(m.linear({0, 64, 64}), InvalidArgument);
  EXPECT_THROW(m.linear({nan, 64, 64}), InvalidArgument);
  EXPECT_THROW(m.linear({1e300, 64, 64}), InvalidArgument);
  EXPECT_THROW(m.linear({1, 0, 64}), InvalidArgument);
  EXPECT_THROW(m.linear({1, 64, -64}), InvalidArgument);
  for (const AttentionQuery& q : {AttentionQuery{0, 1, 10, 8, 8, 64},
                                  {1, nan, 10, 8, 8, 64},
                                  {1, 11, 10, 8, 8, 64},
                                  {1, 1, HUGE_VAL, 8, 8, 64},
                                  {1, 1, 10, 8, 3, 64},
                                  {1, 1, 10, 8, 0, 64},
                                  {1, 1, 10, 8, 8, 0},
                                  {1, 1, 10, 8, 8, 64, 0}})
    EXPECT_THROW(m.attention(q), InvalidArgument);
  EXPECT_THROW(m.elementwise({0, 64, 1, 1}), InvalidArgument);
  EXPECT_THROW(m.elementwise({1, 0, 1, 1}), InvalidArgument);
  EXPECT_THROW(m.elementwise({1, 64, -1, 1}), InvalidArgument);
  for (const ExpertsQuery& q : {ExpertsQuery{0, 64, 8, 2},
                                {64, 0, 8, 2},
                                {64, 64, 0, 2},
                                {64, 64, 8, 0},
                                {64, 64, 8, 9},
                                {64, 64, 8, 2, 0},
                                {64, 64, 8, 2, 3},
                                {64, 64, 8, 2, 1, 0},
                                {64, 64, 8, 2, 1, 3},
                                {64, 64, 8, 2, 1, -1},
                                {64, 64, 8, 2, 1, 1, 0},
                                {64, 64, 8, 2, 1, 1, nan},
                                {64, 64, 8, 2, 1, 1, 1e300},
                                {64, 64, 8, 2, 1, 1, 1, "odd"}})
    EXPECT_THROW(m.experts(q), InvalidArgument);
  EXPECT_THROW(m.dense_step(16, nullptr, -1), InvalidArgument);
  const KernelCostModel without_shape = device("h100-sxm");
  EXPECT_THROW(without_shape.moe_layer({1, 1, 1}), InvalidArgument);
  EXPECT_THROW(without_shape.dense_step(1), InvalidArgument);
}

}  // namespace
}  // namespace thermoe
