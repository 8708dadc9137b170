// The twin against data/telemetry/h100-sxm-700w.csv: power and clock of its phases, temperatures.
#include <gtest/gtest.h>

#include <cmath>

#include "cost/paths.h"
#include "cost/recorded_trace.h"
#include "thermoe/digital_twin.h"

namespace thermoe {
namespace {

using test::mean_of;
using test::read_phase;
using test::Recorded;
using test::Row;

CostEstimate gemm_8192() {
  CostEstimate work;
  work.flops = 2 * std::pow(8192.0, 3);
  work.bytes = 3 * 2 * 8192.0 * 8192.0;
  work.latency_us = work.flops / read_twin_parameters(test::h100_power()).tensor_flops_per_s * 1e6;
  work.clock_bound_frac = 1;
  return work;
}

CostEstimate copy_2gib() {
  CostEstimate work;
  work.bytes = 2 * 2147483648.0;
  work.latency_us = work.bytes / 3.0e12 * 1e6;
  work.sm_active_frac = 0;
  return work;
}

// One layer of the recorded kernels: latency as it was measured there, 16 rows a tile.
CostEstimate moe_layer(double distinct, double latency_us) {
  const double expert_params = 3.0 * 2048 * 768;
  CostEstimate work;
  work.latency_us = latency_us;
  work.bytes = distinct * expert_params * 2;
  work.flops = distinct * 16 * 2 * expert_params;
  return work;
}

Recorded twin_mean(const CostEstimate& work, double seconds) {
  DigitalTwin twin(read_twin_parameters(test::h100_power()));
  while (twin.time_s() < seconds / 2) twin.advance(work, 0);
  const double energy = twin.energy_j(), start = twin.time_s();
  double clock = 0, count = 0;
  while (twin.time_s() < seconds) {
    clock += twin.advance(work, 0).sm_clock_mhz;
    ++count;
  }
  return {(twin.energy_j() - energy) / (twin.time_s() - start), clock / count};
}

TEST(RecordedTrace, PowerAndClockOfEveryPhaseWithinATwentieth) {
  struct Phase {
    const char* name;
    CostEstimate work;
    double skip_s, seconds;
  };
  const Phase phases[] = {
      {"gemm_bf16_8192", gemm_8192(), 5, 40},
      {"copy_2GiB", copy_2gib(), 2, 20},
      {"moe_B16_d16", moe_layer(16, 80.6), 1.5, 20},
      {"moe_B16_d32", moe_layer(32, 133.7), 1.5, 20},
      {"moe_B16_d64", moe_layer(64, 250.8), 1.5, 20},
      {"moe_B16_d128", moe_layer(128, 474.5), 1.5, 20},
  };
  for (const Phase& phase : phases) {
    const Recorded recorded = mean_of(phase.name, phase.skip_s);
    const Recorded twin = twin_mean(phase.work, phase.seconds);
    EXPECT_NEAR(twin.power_w / recorded.power_w, 1, 0.05) << phase.name;
    EXPECT_NEAR(twin.clock_mhz / recorded.clock_mhz, 1, 0.05) << phase.name;
  }
  DigitalTwin idle(read_twin_parameters(test::h100_power()));
  EXPECT_NEAR(*idle.state().power_average_w / mean_of("idle", 1.5).power_w, 1, 0.05);
}

// Not fitted: the design's sustained clock of 4,096 tokens through the layer at the 700 W cap.
TEST(RecordedTrace, PredictsTheClockOfAPrefillAtTheCap) {
  const KernelCostModel model(test::h100_profile(), cost_shape("qwen3-30b-a3b"));
  const Recorded twin = twin_mean(model.moe_layer({4096, 128, 32768}), 40);
  EXPECT_NEAR(twin.power_w, 700, 5);
  EXPECT_NEAR(twin.clock_mhz / 1550, 1, 0.05);
}

// 40 s of GEMM, then the cooling, then the copy: the recorded die every few seconds.
TEST(RecordedTrace, TemperaturesFollow) {
  DigitalTwin twin(read_twin_parameters(test::h100_power()));
  double error = 0, count = 0;
  const auto compare = [&](const std::string& phase, double from_s, double to_s, auto&& run) {
    const std::vector<Row> rows = read_phase(phase, from_s, to_s);
    const double offset = twin.time_s() - rows[0].time_s;
    for (const Row& row : rows) {
      run(row.time_s + offset);
      error += std::abs(twin.temperature_c() - row.temperature_c);
      ++count;
    }
    EXPECT_NEAR(twin.temperature_c(), rows.back().temperature_c, 1.5) << phase;
  };
  const auto work_until = [&](const CostEstimate& work) {
    return [&twin, work](double until_s) {
      while (twin.time_s() < until_s) twin.advance(work, 0);
    };
  };
  const auto idle_until = [&](double until_s) {
    if (until_s > twin.time_s()) twin.idle(until_s - twin.time_s());
  };
  compare("gemm_bf16_8192", 0, 1e9, work_until(gemm_8192()));
  compare("cool", 43, 51, idle_until);
  compare("copy_2GiB", 0, 1e9, work_until(copy_2gib()));
  compare("cool", 71, 76, idle_until);
  RecordProperty("temperature_mean_absolute_error_c", std::to_string(error / count));
  EXPECT_LT(error / count, 0.8);
}

}  // namespace
}  // namespace thermoe
