// The time throttled between samples: counters that miss nothing, are reset, or are not there.
#include "thermoe/throttle_meter.h"

#include <gtest/gtest.h>

#include <cmath>
#include <string>

#include "telemetry/trace_csv.h"

namespace thermoe {
namespace {

// Held back by the power cap for the first 5 ms of each 50 ms, by heat from 6 s on, read each 50 ms
// just after: its reasons never show the cap. Counters are refreshed each 0.1 s.
HardwareState board_at(int n) {
  HardwareState state;
  state.present = true;
  state.time_s = 1000.0 + 0.05 * n;
  state.throttle_reasons = 0.05 * n >= 6.0 ? kThrottleSoftwareThermal : 0;
  const double refreshed_s = 0.1 * (n / 2);
  state.throttled_power_cap_s = 70.0 + 0.1 * refreshed_s;
  state.throttled_thermal_s = std::max(0.0, refreshed_s - 6.0);
  return state;
}

TEST(ThrottleMeter, CountsWhatTheReasonsMiss) {
  ThrottleMeter meter;
  for (int n = 0; n <= 120; ++n) meter.add(board_at(n));
  ThrottleReading reading = meter.reading();
  EXPECT_TRUE(reading.by_counters);
  EXPECT_NEAR(reading.span_s, 6.0, 1e-9);
  EXPECT_NEAR(*reading.counted.power_cap_s, 0.6, 1e-9);
  EXPECT_NEAR(*reading.counted.thermal_s, 0.0, 1e-9);
  EXPECT_NEAR(reading.throttled_s, 0.6, 1e-9);
  EXPECT_EQ(reading.reasons_s, 0.0);
  EXPECT_FALSE(reading.counted.hardware_thermal_s);
  // 8 s later heat has held longest; the two overlap, and are not added.
  for (int n = 121; n <= 280; ++n) {
    meter.add(board_at(n));
    meter.add(board_at(n));  // read twice: as once
  }
  reading = meter.reading();
  EXPECT_NEAR(*reading.counted.power_cap_s, 1.4, 1e-9);
  EXPECT_NEAR(reading.throttled_s, 8.0, 1e-9);
  EXPECT_NEAR(reading.reasons_s, 8.0, 1e-9);
  EXPECT_EQ(reading.counter_resets, 0);
}

TEST(ThrottleMeter, WithoutTheCountersReasonsAreAllThereIs) {
  ThrottleMeter meter;
  for (int n = 0; n <= 160; ++n) {
    HardwareState state = board_at(n);
    state.throttled_thermal_s.reset();
    meter.add(state);
  }
  const ThrottleReading reading = meter.reading();
  EXPECT_FALSE(reading.by_counters);  // of heat nothing is counted
  EXPECT_NEAR(reading.throttled_s, 2.0, 1e-9);
  EXPECT_NEAR(*reading.counted.power_cap_s, 0.8, 1e-9);
  EXPECT_FALSE(ThrottleMeter().reading().by_counters);
  EXPECT_EQ(ThrottleMeter().reading().throttled_s, 0.0);
}

TEST(ThrottleMeter, AResetCounterHasCountedSince) {
  ThrottleMeter meter;
  for (int n = 0; n <= 100; ++n) meter.add(board_at(n));
  for (int n = 101; n <= 200; ++n) {
    HardwareState state = board_at(n);
    *state.throttled_power_cap_s -= *board_at(101).throttled_power_cap_s - 0.004;
    meter.add(state);
  }
  const ThrottleReading reading = meter.reading();
  EXPECT_EQ(reading.counter_resets, 1);
  EXPECT_NEAR(*reading.counted.power_cap_s, 1.0, 0.02);  // one refresh may be lost
}

TEST(ThrottleMeter, BridgesGapsAndNeverExceedsItsSpan) {
  ThrottleMeter meter;
  for (int n = 0; n <= 280; ++n) {
    HardwareState state = board_at(n);
    if (n > 150 && n < 200) {  // lost
      state = HardwareState{};
      state.time_s = board_at(n).time_s;
    }
    if (n > 230 && n < 240) state.throttled_power_cap_s.reset();
    meter.add(state);
  }
  ThrottleReading reading = meter.reading();
  EXPECT_NEAR(*reading.counted.power_cap_s, 1.4, 1e-9);
  EXPECT_NEAR(reading.reasons_s, 8.0 - 2.45, 1e-6);
  HardwareState absurd = board_at(281);
  absurd.throttled_power_cap_s = 1e9;
  meter.add(absurd);
  EXPECT_LE(meter.reading().throttled_s, meter.reading().span_s);
}

// A trace of before there were counters: its reasons count.
TEST(ThrottleMeter, TheRecordedBoardWasAtItsCap) {
  ThrottleMeter meter;
  for (const HardwareState& row :
       read_trace_csv(std::string(THERMOE_SOURCE_DIR) + "/data/telemetry/h100-sxm-700w.csv"))
    meter.add(row);
  const ThrottleReading reading = meter.reading();
  EXPECT_FALSE(reading.by_counters);
  EXPECT_GT(reading.throttled_s, 38.0);  // the product ran at the cap for 40 s
  EXPECT_LT(reading.throttled_s, 60.0);
}

}  // namespace
}  // namespace thermoe
