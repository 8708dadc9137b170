// What is recorded is what a replay reads back.
#include "thermoe/telemetry_recorder.h"

#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <random>
#include <sstream>
#include <string>
#include <vector>

#include "telemetry/readings.h"
#include "telemetry/trace_csv.h"
#include "thermoe/error.h"

namespace thermoe {
namespace {

class Recorder : public ::testing::Test {
 protected:
  void SetUp() override {
    path_ = ::testing::TempDir() + "thermoe_recorder_" +
            ::testing::UnitTest::GetInstance()->current_test_info()->name() + ".csv";
  }
  void TearDown() override { std::filesystem::remove(path_); }
  std::string path_;
};

void expect_same(const HardwareState& one, const HardwareState& other) {
  EXPECT_EQ(one.present, other.present);
  std::vector<std::string> texts;
  for (const HardwareState* state : {&one, &other}) {
    std::ostringstream text;
    text.precision(17);
    for_each_reading(*state, [&text](const char* name, const auto& reading) {
      text << name << '=';
      if (reading) text << *reading;
      text << ' ';
    });
    texts.push_back(text.str());
  }
  EXPECT_EQ(texts[0], texts[1]);
}

TEST_F(Recorder, WhatIsWrittenReadsBack) {
  std::mt19937 random(7);
  std::uniform_real_distribution<double> value(0.0, 1e9);
  std::vector<HardwareState> states;
  for (int n = 0; n < 50; ++n) {
    HardwareState state;
    state.time_s = 1e6 + 0.0625 * n;
    state.present = n % 7 != 3;
    if (state.present) {
      state.power_instant_w = value(random);
      if (n % 2) state.power_average_w = value(random);
      if (n % 3) state.power_limit_w = 700.0;
      state.energy_mj = value(random);
      state.sm_clock_mhz = value(random);
      state.sm_clock_max_mhz = 1980.0;
      state.mem_clock_mhz = value(random);
      state.temperature_c = value(random);
      if (n % 5) state.memory_temperature_c = value(random);
      state.temperature_limit_c = 87.0;
      state.throttle_reasons = random();
      state.throttled_power_cap_s = value(random);
      if (n % 4) state.throttled_power_brake_s = value(random);
      state.throttled_thermal_s = value(random);
      state.throttled_hardware_thermal_s = value(random);
      state.throttled_board_limit_s = value(random);
      state.throttled_reliability_s = value(random);
      state.sm_active_frac = value(random);
      state.tensor_active_frac = value(random);
      if (n % 6) state.dram_active_frac = value(random);
    }
    states.push_back(state);
  }
  {
    TelemetryRecorder recorder(path_);
    for (const HardwareState& state : states) {
      recorder.add(state, "a phase");
      recorder.add(state);  // read twice: written once
    }
  }
  const std::vector<HardwareState> rows = read_trace_csv(path_);
  ASSERT_EQ(rows.size(), states.size());
  for (size_t n = 0; n < rows.size(); ++n) {
    EXPECT_EQ(rows[n].time_s, 0.0625 * static_cast<double>(n));
    expect_same(rows[n], states[n]);
  }
}

TEST_F(Recorder, EveryRowIsInTheFileAtOnce) {
  TelemetryRecorder recorder(path_);
  HardwareState state;
  state.present = true;
  state.temperature_c = 40.0;
  for (int n = 0; n < 3; ++n) {
    state.time_s = n;
    recorder.add(state);
    EXPECT_EQ(read_trace_csv(path_).size(), static_cast<size_t>(n + 1));
  }
}

TEST_F(Recorder, BadPathsAndPhasesAreNamed) {
  EXPECT_THROW(TelemetryRecorder("/nowhere/at/all.csv"), IoError);
  TelemetryRecorder recorder(path_);
  for (const char* phase : {"a,b", "a\"b", "a\nb"})
    EXPECT_THROW(recorder.add(HardwareState{}, phase), InvalidArgument);
}

TEST_F(Recorder, AFullDiskIsSaid) {
  if (!std::filesystem::exists("/dev/full")) GTEST_SKIP() << "no /dev/full here";
  EXPECT_THROW(TelemetryRecorder("/dev/full"), IoError);
}

}  // namespace
}  // namespace thermoe
