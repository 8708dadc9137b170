// Power over the clock, the clock solved from a cap, and the balance of heat and leakage.
#include <gtest/gtest.h>

#include <cmath>

#include "cost/paths.h"
#include "cost/power_model.h"
#include "thermoe/digital_twin.h"
#include "thermoe/error.h"

namespace thermoe {
namespace {

TwinParameters twin_of(const char* name = "h100-sxm-power.json") {
  return read_twin_parameters(test::source_path("data/profiles") / name);
}

CostEstimate gemm() {
  CostEstimate work;
  work.latency_us = 1000;
  work.clock_bound_frac = 1;
  work.flops = twin_of().tensor_flops_per_s * 1e-3;
  work.bytes = 1e8;
  return work;
}

CostEstimate reading() {
  CostEstimate work;
  work.latency_us = 1000;
  work.bytes = 2.6e9;
  return work;
}

CostEstimate mixed() {
  CostEstimate work = gemm();
  work.clock_bound_frac = 0.5;
  work.flops /= 2;
  work.bytes = 1.3e9;
  return work;
}

cost::Activity at(const TwinParameters& p, const CostEstimate& work, double mhz) {
  return cost::activity_of(work, work.latency_us * cost::stretch(p, work.clock_bound_frac, mhz));
}

TEST(OperatingPoint, ComputeBoundTimeGoesWithTheClockMemoryBoundDoesNot) {
  const TwinParameters p = twin_of();
  const double half = p.clock_max_mhz / 2;
  EXPECT_DOUBLE_EQ(cost::stretch(p, 1, half), 2);
  EXPECT_DOUBLE_EQ(cost::stretch(p, 0, p.clock_knee_mhz), 1);
  EXPECT_GT(cost::stretch(p, 0, half), 1);
  EXPECT_LT(cost::stretch(p, 0, half), 1.1);
}

TEST(OperatingPoint, PowerRisesWithTheClockAndIsConvexAboveTheKnee) {
  for (const char* name : {"h100-sxm-power.json", "h200-sxm-power.json", "a100-sxm-power.json",
                           "b200-sxm-power.json"}) {
    const TwinParameters p = twin_of(name);
    for (const CostEstimate& work : {gemm(), reading(), mixed()}) {
      const auto power_w = [&](double mhz) { return cost::power_w(p, mhz, 60, at(p, work, mhz)); };
      const double step = (p.clock_max_mhz - p.clock_knee_mhz) / 200;
      for (double mhz = p.clock_knee_mhz + step; mhz + step <= p.clock_max_mhz; mhz += step)
        EXPECT_GE(power_w(mhz - step) - 2 * power_w(mhz) + power_w(mhz + step), -1e-9)
            << name << " " << mhz;
      for (double mhz = p.clock_min_mhz; mhz + step <= p.clock_max_mhz; mhz += step)
        EXPECT_GE(power_w(mhz + step), power_w(mhz) - 1e-9) << name << " " << mhz;
    }
    // More than linear: the voltage falls with the clock, so a slower clock saves energy per FLOP.
    EXPECT_LT(cost::voltage_frac(p, p.clock_knee_mhz), 0.8);
    EXPECT_DOUBLE_EQ(cost::voltage_frac(p, p.clock_max_mhz), 1);
  }
}

TEST(OperatingPoint, TheSolvedClockMeetsTheCapAndIsTheTwinsOwn) {
  const TwinParameters p = twin_of();
  for (const CostEstimate& work : {gemm(), reading(), mixed()}) {
    double last_w = 0, last_mhz = 0;
    for (double cap : {300.0, 400.0, 500.0, 600.0, 700.0}) {
      const OperatingPoint solved = steady_state(p, work, {.power_cap_w = cap});
      EXPECT_LE(solved.power_w, cap + 1e-3);
      if (solved.sm_clock_mhz < p.clock_max_mhz) {
        EXPECT_NEAR(solved.power_w, cap, 0.01);
      }
      EXPECT_GE(solved.power_w, last_w - 1e-6);  // monotone in the cap
      EXPECT_GE(solved.sm_clock_mhz, last_mhz - 1e-6);
      last_w = solved.power_w;
      last_mhz = solved.sm_clock_mhz;

      DigitalTwin twin(p);
      twin.set_environment({.power_cap_w = cap});
      while (twin.time_s() < 300) twin.advance(work, 0);
      const TwinStep step = twin.advance(work, 0);
      EXPECT_NEAR(step.sm_clock_mhz / solved.sm_clock_mhz, 1, 0.01) << cap;
      EXPECT_NEAR(step.energy_j / step.busy_s / solved.power_w, 1, 0.01) << cap;
      EXPECT_NEAR(twin.temperature_c(), solved.temperature_c, 0.3) << cap;
    }
  }
}

TEST(OperatingPoint, SaysWhereNoClockMeetsTheCap) {
  EXPECT_TRUE(operating_point(twin_of(), gemm(), 100, 60).above_cap);
  EXPECT_FALSE(operating_point(twin_of(), gemm(), 400, 60).above_cap);
  EXPECT_THROW(operating_point(twin_of(), {}, 400, 60), InvalidArgument);
  EXPECT_THROW(operating_point(twin_of(), gemm(), -1, 60), InvalidArgument);
  EXPECT_THROW(operating_point(twin_of(), gemm(), 400, NAN), InvalidArgument);
}

// T - (inlet + R P(T)) rises strictly, so it has one zero, and steady_state finds it.
TEST(OperatingPoint, HeatAndLeakageBalanceOnce) {
  for (const char* name : {"h100-sxm-power.json", "a100-sxm-power.json", "b200-sxm-power.json"}) {
    const TwinParameters p = twin_of(name);
    CostEstimate work = reading();
    work.bytes = 0.8e9;  // no board's cap is reached
    const OperatingPoint balanced = steady_state(p, work);
    ASSERT_EQ(balanced.sm_clock_mhz, p.clock_max_mhz) << name;
    const auto surplus_c = [&](double t) {
      ThermalModel thermal(p.thermal);
      thermal.settle(cost::power_w(p, p.clock_max_mhz, t, at(p, work, p.clock_max_mhz)),
                     balanced.memory_power_w);
      return t - thermal.temperature_c();
    };
    EXPECT_NEAR(surplus_c(balanced.temperature_c), 0, 1e-9);
    for (double t = -50; t < 200; t += 1) EXPECT_GT(surplus_c(t + 1), surplus_c(t)) << t;
  }
}

TEST(OperatingPoint, EnergyAddsUpOverKernels) {
  TwinParameters p = twin_of();
  p.leakage_w_per_c = 0;  // energy must not depend on what ran before
  const CostEstimate kernels[] = {gemm(), reading(), mixed()};
  CostEstimate all;
  all.sm_active_frac = 1;
  double clock_bound_us = 0, alone_j = 0;
  for (CostEstimate kernel : kernels) {
    kernel.flops /= 4;  // far from the cap
    kernel.bytes /= 2;
    alone_j += DigitalTwin(p).advance(kernel, 0).energy_j;
    all.latency_us += kernel.latency_us;
    all.bytes += kernel.bytes;
    all.flops += kernel.flops;
    clock_bound_us += kernel.latency_us * kernel.clock_bound_frac;
  }
  all.clock_bound_frac = clock_bound_us / all.latency_us;
  EXPECT_NEAR(DigitalTwin(p).advance(all, 0).energy_j / alone_j, 1, 1e-12);
}

TEST(OperatingPoint, ThresholdsAreMarginsOrTemperatures) {
  const TwinParameters h100 = twin_of(), a100 = twin_of("a100-sxm-power.json");
  EXPECT_EQ(h100.margin_zero_c, 87.0);
  EXPECT_EQ(h100.slowdown_c, 87.0);
  EXPECT_EQ(h100.hardware_slowdown_c, 89.0);
  EXPECT_FALSE(a100.margin_zero_c.has_value());
  EXPECT_EQ(DigitalTwin(h100).state().temperature_limit_c, 87.0);
  EXPECT_EQ(DigitalTwin(a100).state().temperature_limit_c, a100.slowdown_c);
}

}  // namespace
}  // namespace thermoe
