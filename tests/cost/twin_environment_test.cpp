// What the outside does to the twin: fans, neighbours, sensors.
#include <gtest/gtest.h>

#include <cmath>

#include "cost/shipped_twin.h"
#include "thermoe/digital_twin.h"
#include "thermoe/error.h"

namespace thermoe {
namespace {

using test::h100_twin;

CostEstimate kernel(double clock_bound_frac) {
  CostEstimate work;
  work.latency_us = 1000;
  work.clock_bound_frac = clock_bound_frac;
  work.bytes = (1 - clock_bound_frac) * 1.5e9;
  work.flops = clock_bound_frac * 2e11;
  return work;
}

void run(DigitalTwin& twin, const CostEstimate& work, double seconds) {
  const double until_s = twin.time_s() + seconds;
  while (twin.time_s() < until_s) twin.advance(work, 0);
}

TEST(TwinEnvironment, AFailingFanHeatsToItsSteadyState) {
  DigitalTwin twin(h100_twin());
  run(twin, kernel(0.2), 200);
  const double cool_c = twin.temperature_c();
  const TwinEnvironment failing{.sink_resistance_factor = 1.8};
  twin.set_environment(failing);
  run(twin, kernel(0.2), 1);
  EXPECT_LT(twin.temperature_c() - cool_c, 1);  // slowly
  run(twin, kernel(0.2), 500);
  const OperatingPoint settled = steady_state(h100_twin(), kernel(0.2), failing);
  EXPECT_NEAR(twin.temperature_c(), settled.temperature_c, 0.1);
  const double sink_c_per_w = h100_twin().thermal.poles.back().resistance_c_per_w;
  EXPECT_NEAR(settled.temperature_c - cool_c, 0.8 * sink_c_per_w * settled.power_w, 0.5);
}

TEST(TwinEnvironment, ANeighbourTakesBandwidthAndPower) {
  const TwinEnvironment shared{.neighbour_bandwidth_frac = 0.25};
  for (double bound : {0.0, 1.0}) {
    DigitalTwin alone(h100_twin()), beside(h100_twin());
    beside.set_environment(shared);
    const TwinStep mine = alone.advance(kernel(bound), 0),
                   theirs = beside.advance(kernel(bound), 0);
    EXPECT_NEAR(theirs.busy_s / mine.busy_s, bound == 0 ? 1 / 0.75 : 1.0, 1e-9);
    EXPECT_GT(theirs.energy_j / theirs.busy_s,
              mine.energy_j / mine.busy_s * (bound == 0 ? 0.99 : 1.01));
  }
  DigitalTwin quiet(h100_twin()), loud(h100_twin());
  loud.set_environment({.neighbour_power_w = 100});
  const double difference_j = loud.idle(0.01).energy_j - quiet.idle(0.01).energy_j;
  EXPECT_NEAR(difference_j, 100 * 0.01, 0.01);
}

TEST(TwinEnvironment, ANeighbourCanPushTheBoardIntoItsCap) {
  DigitalTwin twin(h100_twin());
  twin.set_environment({.power_cap_w = 450});
  run(twin, kernel(0.4), 20);
  const double alone_mhz = *twin.state().sm_clock_mhz;
  twin.set_environment({.power_cap_w = 450, .neighbour_power_w = 120});
  run(twin, kernel(0.4), 20);
  EXPECT_LT(*twin.state().sm_clock_mhz, alone_mhz - 50);
  EXPECT_LE(*twin.state().power_average_w, 451);
}

TEST(TwinEnvironment, LostSensorsReadNothingAndComeBack) {
  DigitalTwin twin(h100_twin());
  run(twin, kernel(0.2), 5);
  const HardwareState before = twin.state();
  twin.set_environment({.sensors_lost = true});
  run(twin, kernel(0.2), 1);
  const HardwareState lost = twin.state();
  EXPECT_TRUE(lost.present);
  EXPECT_GT(lost.time_s, before.time_s);
  EXPECT_FALSE(lost.power_w() || lost.temperature_c || lost.sm_clock_mhz || lost.energy_mj ||
               lost.power_limit_w || lost.throttle_reasons || lost.temperature_limit_c);
  twin.set_environment({});
  EXPECT_GT(*twin.state().energy_mj, *before.energy_mj);  // the counter went on
}

TEST(TwinEnvironment, NoiseIsSeededAndChangesReadingsOnly) {
  DigitalTwin plain(h100_twin()), noisy(h100_twin()), same(h100_twin()), other(h100_twin());
  const TwinEnvironment noise{.temperature_noise_c = 2, .power_noise_frac = 0.03, .noise_seed = 11};
  TwinEnvironment reseeded = noise;
  reseeded.noise_seed = 12;
  noisy.set_environment(noise);
  same.set_environment(noise);
  other.set_environment(reseeded);
  double sum = 0, squares = 0, power_squares = 0;
  int differ = 0;
  constexpr int kReadings = 4000;
  for (int i = 0; i < kReadings; ++i) {
    for (DigitalTwin* twin : {&plain, &noisy, &same, &other}) twin->advance(kernel(0.2), 0.1);
    const HardwareState clean = plain.state(), read = noisy.state();
    EXPECT_EQ(read.temperature_c, noisy.state().temperature_c);  // reading changes nothing
    EXPECT_EQ(read.temperature_c, same.state().temperature_c);
    EXPECT_EQ(read.power_average_w, same.state().power_average_w);
    differ += read.power_average_w != other.state().power_average_w;
    const double error = *read.temperature_c - plain.temperature_c();
    sum += error;
    squares += error * error;
    const double power_error = *read.power_instant_w / *clean.power_instant_w - 1;
    power_squares += power_error * power_error;
  }
  EXPECT_EQ(plain.energy_j(), noisy.energy_j());
  EXPECT_EQ(plain.temperature_c(), noisy.temperature_c());
  EXPECT_GT(differ, kReadings * 9 / 10);
  EXPECT_NEAR(sum / kReadings, 0, 0.15);
  EXPECT_NEAR(std::sqrt(squares / kReadings), std::hypot(2, std::sqrt(1 / 12.0)), 0.15);
  EXPECT_NEAR(std::sqrt(power_squares / kReadings), 0.03, 0.003);
}

TEST(TwinEnvironment, EnergyIsConservedThroughEverything) {
  DigitalTwin twin(h100_twin());
  double sum_j = 0;
  const TwinEnvironment phases[] = {{.power_cap_w = 420},
                                    {.sink_resistance_factor = 3},
                                    {.neighbour_bandwidth_frac = 0.4, .neighbour_power_w = 200},
                                    {.inlet_c = 75.0, .sensors_lost = true},
                                    {}};
  for (const TwinEnvironment& phase : phases) {
    twin.set_environment(phase);
    for (int i = 0; i < 300; ++i) {
      const TwinStep step = twin.advance(kernel(0.5), i % 3 * 0.01);
      // What the board used is what its heat came from: never less than idle, never unbounded.
      EXPECT_GT(step.energy_j, 100 * (step.busy_s + step.idle_s));
      EXPECT_LT(step.energy_j, 1500 * (step.busy_s + step.idle_s));
      sum_j += step.energy_j;
    }
  }
  EXPECT_NEAR(sum_j / twin.energy_j(), 1, 1e-12);
}

TEST(TwinEnvironment, RefusesNonsense) {
  DigitalTwin twin(h100_twin());
  for (const TwinEnvironment& bad :
       {TwinEnvironment{.sink_resistance_factor = 0},
        TwinEnvironment{.neighbour_bandwidth_frac = 1}, TwinEnvironment{.neighbour_power_w = -1},
        TwinEnvironment{.power_noise_frac = NAN}, TwinEnvironment{.inlet_c = INFINITY},
        TwinEnvironment{.sink_resistance_factor = 1e4}})
    EXPECT_THROW(twin.set_environment(bad), InvalidArgument);
}

}  // namespace
}  // namespace thermoe
