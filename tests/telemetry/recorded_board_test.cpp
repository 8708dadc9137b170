// What the monitor recorded of a real H100 (bench/record_gpu.sh), replayed: idle, a bf16 product at
// the power cap, recovery, copies.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <fstream>
#include <map>
#include <string>
#include <vector>

#include "telemetry/reading_history.h"
#include "telemetry/trace_csv.h"
#include "thermoe/energy_meter.h"
#include "thermoe/gpu_system_monitor.h"
#include "thermoe/throttle_meter.h"

namespace thermoe {
namespace {

const std::string kTrace = THERMOE_SOURCE_DIR "/data/telemetry/h100-sxm-monitor.csv";

// The second cell of each row: what ran.
std::vector<std::string> phases() {
  std::ifstream file(kTrace);
  std::vector<std::string> names;
  std::string line;
  for (std::getline(file, line); std::getline(file, line);) {
    const size_t comma = line.find(',');
    names.push_back(line.substr(comma + 1, line.find(',', comma + 1) - comma - 1));
  }
  return names;
}

class RecordedBoard : public ::testing::Test {
 protected:
  void SetUp() override {
    rows_ = read_trace_csv(kTrace);
    const std::vector<std::string> names = phases();
    ASSERT_EQ(names.size(), rows_.size());
    for (size_t n = 0; n < rows_.size(); ++n) by_phase_[names[n]].push_back(rows_[n]);
  }
  // The rows of a phase without its first `settling_s`.
  std::vector<HardwareState> settled(const std::string& phase, double settling_s) const {
    std::vector<HardwareState> rows;
    for (const HardwareState& row : by_phase_.at(phase))
      if (row.time_s >= by_phase_.at(phase).front().time_s + settling_s) rows.push_back(row);
    return rows;
  }
  static double mean(const std::vector<HardwareState>& rows,
                     std::optional<double> HardwareState::*reading) {
    double sum = 0;
    int count = 0;
    for (const HardwareState& row : rows)
      if (row.*reading) sum += *(row.*reading), ++count;
    EXPECT_GT(count, 0);
    return sum / std::max(count, 1);
  }
  std::vector<HardwareState> rows_;
  std::map<std::string, std::vector<HardwareState>> by_phase_;
};

// Twenty times a second was asked for; the energy counter's 4 ms in each sample allowed half of it.
TEST_F(RecordedBoard, WasSampledElevenTimesASecond) {
  std::vector<double> steps_s;
  for (size_t n = 1; n < rows_.size(); ++n) {
    ASSERT_TRUE(rows_[n].present) << n;
    steps_s.push_back(rows_[n].time_s - rows_[n - 1].time_s);
  }
  EXPECT_GT(rows_.back().time_s - rows_.front().time_s, 94.0);
  std::sort(steps_s.begin(), steps_s.end());
  EXPECT_NEAR(steps_s[steps_s.size() / 2], 0.1, 0.005);
  EXPECT_LT(steps_s[steps_s.size() * 99 / 100], 0.15);
}

TEST_F(RecordedBoard, RanAtItsCapAndRecovered) {
  const std::vector<HardwareState> idle = settled("idle", 5.0),
                                   gemm = settled("gemm_bf16_8192", 5.0),
                                   recovery = settled("recovery", 15.0);
  EXPECT_LT(mean(idle, &HardwareState::power_instant_w), 250.0);
  EXPECT_NEAR(mean(gemm, &HardwareState::power_average_w), *gemm.back().power_limit_w,
              0.03 * *gemm.back().power_limit_w);
  EXPECT_LT(mean(gemm, &HardwareState::sm_clock_mhz), 0.95 * *gemm.back().sm_clock_max_mhz);
  const auto capped = std::count_if(gemm.begin(), gemm.end(), [](const HardwareState& row) {
    return (row.throttle_reasons.value_or(0) & kThrottleSoftwarePowerCap) != 0;
  });
  EXPECT_GT(static_cast<double>(capped), 0.98 * static_cast<double>(gemm.size()));
  EXPECT_LT(mean(recovery, &HardwareState::power_instant_w), 250.0);
  EXPECT_LT(*recovery.back().temperature_c, *gemm.back().temperature_c - 5.0);
}

TEST_F(RecordedBoard, ItsCountersSayTheSame) {
  const std::vector<HardwareState> idle = settled("idle", 5.0),
                                   gemm = settled("gemm_bf16_8192", 5.0);
  const double span_s = gemm.back().time_s - gemm.front().time_s;
  const ThrottleTimes times = throttled_between(gemm.front(), gemm.back());
  ASSERT_TRUE(times.power_cap_s);
  EXPECT_NEAR(*times.power_cap_s, span_s, 0.02 * span_s);
  EXPECT_EQ(throttled_between(idle.front(), idle.back()).power_cap_s, 0.0);
  EXPECT_EQ(times.thermal_s, 0.0);
  for (size_t n = 1; n < rows_.size(); ++n)
    ASSERT_GE(*rows_[n].throttled_power_cap_s, *rows_[n - 1].throttled_power_cap_s);
}

TEST_F(RecordedBoard, TensorPipesAndMemoryWereBusyInTurn) {
  const std::vector<HardwareState> idle = settled("idle", 5.0),
                                   gemm = settled("gemm_bf16_8192", 5.0),
                                   copy = settled("copy_2GiB", 2.0);
  EXPECT_LT(mean(idle, &HardwareState::tensor_active_frac), 0.02);
  EXPECT_NEAR(mean(gemm, &HardwareState::tensor_active_frac), 0.93, 0.02);
  EXPECT_LT(mean(gemm, &HardwareState::dram_active_frac), 0.6);
  EXPECT_LT(mean(copy, &HardwareState::tensor_active_frac), 0.02);
  EXPECT_GT(mean(copy, &HardwareState::dram_active_frac), 0.85);
}

TEST_F(RecordedBoard, ReplaysToTheSameEnergyByCounterAndByPower) {
  GpuSystemMonitor monitor(open_replay_source(kTrace, 0.05));
  EnergyMeter energy;
  ThrottleMeter throttle;
  while (monitor.state().time_s < rows_.back().time_s) {
    const HardwareState state = monitor.poll();
    energy.add(state);
    throttle.add(state);
  }
  const EnergyReading reading = energy.reading();
  ASSERT_TRUE(reading.energy_mj && reading.disagreement_frac);
  EXPECT_NEAR(*reading.energy_mj, 37.01e6, 0.05e6);
  EXPECT_LT(std::abs(*reading.disagreement_frac), 0.005);
  // One sample came 0.6 s late, at 75 W: of no matter for the two ends.
  EXPECT_LT(reading.uncertainty_mj, 0.002 * *reading.energy_mj);
  EXPECT_EQ(reading.counter_resets + reading.counter_stalls, 0);
  EXPECT_TRUE(throttle.reading().by_counters);
  EXPECT_NEAR(throttle.reading().throttled_s, 35.4, 0.1);
  EXPECT_NEAR(throttle.reading().reasons_s, 35.4, 0.2);
}

// As if read for 0.45 % of the time, which is every 0.9 s here: the same energy, to the bit that
// the uncertainty says.
TEST_F(RecordedBoard, ACounterReadLessOftenTellsTheSameEnergy) {
  for (const bool tells_ages : {true, false}) {
    EnergyMeter all, sparse;
    double read_s = -1.0, worst_mj = 0.0;
    std::optional<double> held_mj;
    for (const HardwareState& row : rows_) {
      HardwareState held = row;
      if (row.time_s - read_s >= 0.85) {
        read_s = row.time_s;
        held_mj = row.energy_mj;
      }
      held.energy_mj = held_mj;
      if (tells_ages) held.status_of(Reading::kEnergy).age_ms = status_ms(row.time_s - read_s);
      all.add(row);
      sparse.add(held);
      const double apart_mj = std::abs(*all.reading().energy_mj - *sparse.reading().energy_mj);
      EXPECT_LT(apart_mj, all.reading().uncertainty_mj + sparse.reading().uncertainty_mj)
          << row.time_s;
      worst_mj = std::max(worst_mj, apart_mj);
    }
    EXPECT_GT(worst_mj, 1e3);  // it was no copy of the other
    EXPECT_LT(sparse.reading().uncertainty_mj, 0.002 * *sparse.reading().energy_mj);
    EXPECT_EQ(sparse.reading().counter_stalls, 0);
  }
}

}  // namespace
}  // namespace thermoe
