// Costs added up, at other clocks, and as energy.
#include <gtest/gtest.h>

#include <algorithm>

#include "cost/operations.h"
#include "thermoe/digital_twin.h"

namespace thermoe {
namespace {

using test::at_clock;
using test::device;
using test::experts_of;
using test::h100;
using test::some_of_each;

TEST(Add, SumsTimeEnergyAndTrafficInAnyOrder) {
  std::vector<CostEstimate> parts = some_of_each(h100());
  CostEstimate forward, backward, repeated;
  double us = 0, mj = 0, bytes = 0, flops = 0, bound_us = 0;
  for (const CostEstimate& part : parts) {
    add(forward, part, 3);
    for (int i = 0; i < 3; ++i) add(repeated, part);
    us += 3 * part.latency_us;
    mj += 3 * part.energy_mj;
    bytes += 3 * part.bytes;
    flops += 3 * part.flops;
    bound_us += 3 * part.latency_us * part.clock_bound_frac;
  }
  std::reverse(parts.begin(), parts.end());
  for (const CostEstimate& part : parts) add(backward, part, 3);
  for (const CostEstimate& sum : {forward, backward, repeated}) {
    EXPECT_NEAR(sum.latency_us / us, 1, 1e-12);
    EXPECT_NEAR(sum.energy_mj / mj, 1, 1e-12);
    EXPECT_NEAR(sum.bytes / bytes, 1, 1e-12);
    EXPECT_NEAR(sum.flops / flops, 1, 1e-12);
    EXPECT_NEAR(sum.clock_bound_frac * sum.latency_us / bound_us, 1, 1e-12);
    EXPECT_NEAR(sum.uncertainty_frac, forward.uncertainty_frac, 1e-12);
    EXPECT_NEAR(sum.sm_active_frac, 1, 1e-12);
  }
}

TEST(Add, TakesBoundAndSourceFromTheLongest) {
  CostEstimate brief, lengthy;
  brief.latency_us = 1;
  brief.source = CostSource::kRoofline;
  brief.bound_by = BoundBy::kOverhead;
  lengthy.latency_us = 10;
  lengthy.source = CostSource::kMeasured;
  lengthy.bound_by = BoundBy::kCompute;
  CostEstimate sum = brief;
  add(sum, lengthy);
  EXPECT_EQ(sum.source, CostSource::kMeasured);
  EXPECT_EQ(sum.bound_by, BoundBy::kCompute);
  add(sum, brief);
  EXPECT_EQ(sum.source, CostSource::kMeasured);
  brief.latency_us = sum.latency_us;
  add(sum, brief);  // a tie: the weaker source
  EXPECT_EQ(sum.source, CostSource::kRoofline);
  const double before_us = sum.latency_us;
  add(sum, lengthy, 0);
  EXPECT_EQ(sum.latency_us, before_us);
}

TEST(Clocks, ALowerOneIsNeverFaster) {
  const std::vector<CostEstimate> fast = some_of_each(h100());
  std::vector<CostEstimate> last = fast;
  for (double mhz = 1980; mhz >= 345; mhz -= 105) {
    const HardwareState state = at_clock(mhz);
    const std::vector<CostEstimate> now = some_of_each(h100(), &state);
    for (size_t i = 0; i < now.size(); ++i) {
      EXPECT_GE(now[i].latency_us, last[i].latency_us * (1 - 1e-12)) << i << " at " << mhz;
      EXPECT_GT(now[i].energy_mj, 0);
      EXPECT_LE(now[i].clock_bound_frac, 1 + 1e-12);
      EXPECT_EQ(now[i].bytes, fast[i].bytes);
    }
    last = now;
  }
}

TEST(Clocks, ComputeScalesWithThemMemoryHardly) {
  const HardwareState half = at_clock(1320);  // two thirds of 1980
  const auto slower = [&](auto&& estimate) {
    return estimate(&half).latency_us / estimate(nullptr).latency_us;
  };
  const KernelCostModel& m = h100();
  EXPECT_NEAR(slower([&](const HardwareState* s) {
                return m.attention({1, 8192, 8192, 32, 4, 128}, s);
              }),
              1.5, 0.02);
  EXPECT_NEAR(slower([&](const HardwareState* s) {
                return m.linear({16384, 8192, 8192}, s);
              }),
              1.5, 0.06);
  EXPECT_NEAR(slower([&](const HardwareState* s) {
                return m.experts(experts_of("qwen3-30b-a3b", 16384), s);
              }),
              1.5, 0.2);
  EXPECT_LT(slower([&](const HardwareState* s) {
              return m.elementwise({1e6, 4096, 2, 2}, s);
            }),
            1.02);
  EXPECT_LT(slower([&](const HardwareState* s) {
              return m.attention({64, 1, 30000, 32, 8, 128}, s);
            }),
            1.02);
  EXPECT_LT(
      slower([&](const HardwareState* s) { return m.experts(experts_of("qwen3-30b-a3b", 16), s); }),
      1.2);
}

TEST(Energy, IsPowerThatTheBoardCanDraw) {
  for (const char* name : {"h100-sxm", "h200-sxm", "a100-sxm", "b200-sxm"}) {
    const KernelCostModel model = device(name);
    for (const CostEstimate& e : some_of_each(model)) {
      const double watts = e.energy_mj / e.latency_us * 1e3;
      EXPECT_GT(watts, model.power().idle_w * 0.5) << name;
      EXPECT_LT(watts, 2500) << name;
      EXPECT_GT(e.bytes, 0);
    }
    HardwareState cold = at_clock(model.power().clock_max_mhz), hot = cold;
    cold.temperature_c = 40;
    hot.temperature_c = 85;
    const LinearQuery query{16, 4096, 4096};
    EXPECT_LT(model.linear(query, &cold).energy_mj, model.linear(query, &hot).energy_mj) << name;
  }
}

}  // namespace
}  // namespace thermoe
