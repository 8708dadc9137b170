#include "thermoe/digital_twin.h"

#include <gtest/gtest.h>

#include <cmath>

#include "cost/paths.h"
#include "cost/power_model.h"
#include "cost/shipped_twin.h"
#include "thermoe/error.h"

namespace thermoe {
namespace {

using test::h100_twin;

// A decode step of 16 tokens on the default shape: 48 layers with 96 experts each, and the rest.
CostEstimate decode_step(double distinct = 96) {
  const KernelCostModel model(test::h100_profile(), cost_shape("qwen3-30b-a3b"));
  const CostEstimate layer = model.moe_layer({16, distinct, 128});
  CostEstimate step = model.dense_step(16);
  const int layers = model.shape().layers;
  const double bound_us =
      step.latency_us * step.clock_bound_frac + layers * layer.latency_us * layer.clock_bound_frac;
  step.latency_us += layers * layer.latency_us;
  step.clock_bound_frac = bound_us / step.latency_us;
  step.bytes += layers * layer.bytes;
  step.flops += layers * layer.flops;
  return step;
}

// Runs for `seconds` and returns the mean power over the last five.
double settle_w(DigitalTwin& twin, const CostEstimate& work, double period_s, double seconds) {
  const double until = twin.time_s() + seconds;
  double energy = 0, start = 0;
  while (twin.time_s() < until) {
    if (start == 0 && twin.time_s() >= until - 5) start = twin.time_s(), energy = twin.energy_j();
    twin.advance(work, period_s);
  }
  return (twin.energy_j() - energy) / (twin.time_s() - start);
}

TEST(DigitalTwin, StartsIdleInEquilibrium) {
  DigitalTwin twin(h100_twin());
  const double start_c = twin.temperature_c();
  const HardwareState before = twin.state();
  EXPECT_TRUE(before.present);
  EXPECT_NEAR(*before.power_average_w, 124, 3);
  EXPECT_EQ(*before.throttle_reasons, 0u);
  twin.idle(100);
  EXPECT_NEAR(twin.temperature_c(), start_c, 1e-6);
  EXPECT_NEAR(twin.time_s(), 100, 1e-9);
  EXPECT_NEAR(*twin.state().power_average_w, *before.power_average_w, 1e-6);
}

TEST(DigitalTwin, AnyStartEndsAtTheOneFixedPoint) {
  DigitalTwin cold(h100_twin()), hot(h100_twin());
  settle_w(hot, decode_step(), 0.02, 40);
  EXPECT_GT(hot.temperature_c(), cold.temperature_c() + 15);
  const double load = settle_w(cold, decode_step(40), 0.02, 400);
  EXPECT_NEAR(settle_w(hot, decode_step(40), 0.02, 400), load, 0.01);
  EXPECT_NEAR(cold.temperature_c(), hot.temperature_c(), 0.01);
  const TwinParameters p = h100_twin();
  const double r = p.thermal.resistance_c_per_w();
  // What the memory draws past the die's own pole cools it by up to two degrees; the fast pole
  // ripples by some tenths within a period.
  EXPECT_LT(cold.temperature_c(), p.thermal.inlet_c + r * load);
  EXPECT_GT(cold.temperature_c(), p.thermal.inlet_c + r * load - 2.5);
}

TEST(DigitalTwin, EnergyIsTheSumOfTheStepsAndTheIntegralOfThePower) {
  DigitalTwin twin(h100_twin());
  TwinEnvironment environment;
  environment.power_cap_w = 450;
  twin.set_environment(environment);
  const CostEstimate work = decode_step();
  double steps_j = 0, busy_s = 0, idle_s = 0, boxcar_j = 0, last_s = 0;
  for (int i = 0; i < 1500; ++i) {
    const TwinStep step = twin.advance(work, i % 2 == 0 ? 0.0 : 0.0217);
    EXPECT_NEAR(step.start_s, busy_s + idle_s, 1e-9);
    EXPECT_LE(step.throttled_s, step.busy_s);
    steps_j += step.energy_j;
    busy_s += step.busy_s;
    idle_s += step.idle_s;
    // One-second averages, laid end to end.
    if (twin.time_s() - last_s >= 1) {
      boxcar_j += *twin.state().power_average_w * 1.0;
      boxcar_j += *twin.state().power_instant_w * (twin.time_s() - last_s - 1);
      last_s = twin.time_s();
    }
  }
  EXPECT_NEAR(steps_j, twin.energy_j(), 1e-9 * steps_j);
  EXPECT_NEAR(twin.time_s(), busy_s + idle_s, 1e-9 * busy_s);
  EXPECT_NEAR(*twin.state().energy_mj, twin.energy_j() * 1e3, 1e-6);
  EXPECT_NEAR(boxcar_j / twin.energy_j(), last_s / twin.time_s(), 0.005);
}

TEST(DigitalTwin, PowerIsTheFormulaAtFullClock) {
  DigitalTwin twin(h100_twin());
  const CostEstimate work = decode_step();
  const double before_c = twin.temperature_c();
  const TwinStep step = twin.advance(work, 0);
  const double expected_w =
      cost::power_w(h100_twin(), 1980, before_c, cost::activity_of(work, work.latency_us));
  // Leakage grows by a watt as the die warms within the step.
  EXPECT_NEAR(step.energy_j / step.busy_s, expected_w, 2.0);
  EXPECT_NEAR(step.busy_s, work.latency_us * 1e-6, 1e-12);
  EXPECT_NEAR(step.sm_clock_mhz, 1980, 1e-9);  // a mean over the step
}

TEST(DigitalTwin, ResultsDoNotDependOnHowTimeIsCut) {
  DigitalTwin coarse(h100_twin()), fine(h100_twin());
  TwinEnvironment environment;
  environment.power_cap_w = 500;
  coarse.set_environment(environment);
  fine.set_environment(environment);
  const CostEstimate step = decode_step();
  CostEstimate piece = step;
  piece.latency_us /= 37;
  piece.bytes /= 37;
  piece.flops /= 37;
  for (int i = 0; i < 600; ++i) coarse.advance(step, 0);
  for (int i = 0; i < 600 * 37; ++i) fine.advance(piece, 0);
  EXPECT_NEAR(fine.energy_j() / coarse.energy_j(), 1, 1e-3);
  EXPECT_NEAR(fine.time_s() / coarse.time_s(), 1, 1e-3);
  EXPECT_NEAR(fine.temperature_c(), coarse.temperature_c(), 0.05);
}

TEST(DigitalTwin, IsDeterministic) {
  DigitalTwin a(h100_twin()), b(h100_twin());
  const CostEstimate step = decode_step(), again = decode_step();
  for (int i = 0; i < 500; ++i) {
    EXPECT_EQ(a.advance(step, 0.02).energy_j, b.advance(again, 0.02).energy_j);
    EXPECT_EQ(a.temperature_c(), b.temperature_c());
  }
}

TEST(DigitalTwin, PowerMeetsTheCapAndIsMonotoneInIt) {
  const CostEstimate work = decode_step();
  double last_w = 0, last_step_s = 1;
  for (double cap : {300.0, 350.0, 400.0, 450.0, 500.0, 550.0, 600.0, 650.0, 700.0}) {
    DigitalTwin twin(h100_twin());
    TwinEnvironment environment;
    environment.power_cap_w = cap;
    twin.set_environment(environment);
    const double watts = settle_w(twin, work, 0, 60);
    const double step_s = twin.advance(work, 0).busy_s;
    EXPECT_LE(watts, cap * 1.005) << cap;
    EXPECT_GE(watts, last_w - 0.1);
    EXPECT_LE(step_s, last_step_s + 1e-6);
    EXPECT_EQ(*twin.state().throttle_reasons, watts > 0.99 * cap ? kThrottleSoftwarePowerCap : 0u);
    EXPECT_EQ(*twin.state().power_limit_w, cap);
    last_w = watts;
    last_step_s = step_s;
  }
}

TEST(DigitalTwin, SaysSoWhereNoClockMeetsTheCap) {
  DigitalTwin twin(h100_twin());
  TwinEnvironment environment;
  environment.power_cap_w = 110;  // below idle
  twin.set_environment(environment);
  const double watts = settle_w(twin, decode_step(), 0.2, 20);
  EXPECT_GT(watts, 110);
  EXPECT_NEAR(*twin.state().sm_clock_mhz, 345, 1e-9);
  EXPECT_EQ(*twin.state().throttle_reasons & kThrottleSoftwarePowerCap, kThrottleSoftwarePowerCap);
}

TEST(DigitalTwin, HotInletThrottlesAtTheSlowdownTemperatureAndRecovers) {
  DigitalTwin twin(h100_twin());
  const CostEstimate work = decode_step();
  settle_w(twin, work, 0.02, 40);
  EXPECT_EQ(*twin.state().throttle_reasons, 0u);
  TwinEnvironment environment;
  environment.inlet_c = 68;  // 35 C above the recorded
  twin.set_environment(environment);
  const double start = twin.time_s();
  double reached = 0, most_c = 0, throttled_s = 0;
  while (twin.time_s() < start + 120) {
    throttled_s += twin.advance(work, 0.02).throttled_s;
    if (reached == 0 && twin.temperature_c() >= 87) reached = twin.time_s() - start;
    most_c = std::max(most_c, twin.temperature_c());
  }
  EXPECT_GT(reached, 15);
  EXPECT_LT(reached, 60);
  EXPECT_LT(most_c, 89);
  EXPECT_NEAR(twin.temperature_c(), 87, 0.5);
  EXPECT_GT(throttled_s, 20);
  EXPECT_EQ(*twin.state().throttle_reasons, kThrottleSoftwareThermal);
  twin.set_environment({});
  settle_w(twin, work, 0.02, 90);
  EXPECT_EQ(*twin.state().throttle_reasons, 0u);
  EXPECT_EQ(*twin.state().sm_clock_mhz, 1980);
}

TEST(DigitalTwin, FarAboveTheThresholdTheHardwareSlowsDown) {
  DigitalTwin twin(h100_twin());
  TwinEnvironment environment;
  environment.inlet_c = 80;
  twin.set_environment(environment);
  settle_w(twin, decode_step(), 0, 60);
  EXPECT_NE(*twin.state().throttle_reasons & kThrottleAnyThermal, 0u);
  EXPECT_LT(*twin.state().sm_clock_mhz, 600);
}

TEST(DigitalTwin, SourceReadsTheTwin) {
  DigitalTwin twin(h100_twin());
  const auto source = twin.source();
  EXPECT_EQ(source->name(), "twin");
  EXPECT_EQ(source->device().name, "NVIDIA H100 80GB HBM3");
  EXPECT_TRUE(source->device().simulated);
  twin.advance(decode_step(), 0.05);
  EXPECT_EQ(source->sample().time_s, twin.time_s());
  EXPECT_EQ(*source->sample().temperature_c, std::round(twin.temperature_c()));
}

TEST(DigitalTwin, RefusesNonsense) {
  TwinParameters p = h100_twin();
  p.leakage_w_per_c = 30;  // runs away
  EXPECT_THROW(DigitalTwin{p}, InvalidArgument);
  DigitalTwin twin(h100_twin());
  EXPECT_THROW(twin.idle(-1), InvalidArgument);
  CostEstimate work;
  work.latency_us = NAN;
  EXPECT_THROW(twin.advance(work, 1), InvalidArgument);
  TwinEnvironment environment;
  environment.power_cap_w = -5;
  EXPECT_THROW(twin.set_environment(environment), InvalidArgument);
}

}  // namespace
}  // namespace thermoe
