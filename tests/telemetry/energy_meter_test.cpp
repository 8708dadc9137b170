// The energy between samples: counters that refresh late, fall, stand still or are not there.
#include "thermoe/energy_meter.h"

#include <gtest/gtest.h>

#include <cmath>
#include <string>

#include "telemetry/reading_history.h"
#include "telemetry/trace_csv.h"

namespace thermoe {
namespace {

// A board under 300 W + 50 W · sin(t), read every `step_s`, whose counter is refreshed every 0.1 s
// and read every `counter_step_s`, at each sample where that is zero.
struct Board {
  double step_s = 0.05, refresh_s = 0.1, offset_mj = 5e6, counter_step_s = 0.0;
  bool tells_ages = true;

  static double true_mj(double time_s) {
    return 1e3 * (300.0 * time_s + 50.0 * (1.0 - std::cos(time_s)));
  }
  HardwareState at(int n) const {
    HardwareState state;
    state.present = true;
    state.time_s = 1000.0 + n * step_s;
    const double time_s = n * step_s;
    state.power_instant_w = 300.0 + 50.0 * std::sin(time_s);
    double read_s = time_s;
    if (counter_step_s > 0.0) read_s = std::floor(time_s / counter_step_s + 1e-9) * counter_step_s;
    if (tells_ages) state.status_of(Reading::kEnergy).age_ms = status_ms(time_s - read_s);
    const double refreshed_s = std::floor(read_s / refresh_s + 1e-9) * refresh_s;
    state.energy_mj = std::floor(offset_mj + true_mj(refreshed_s));
    return state;
  }
};

HardwareState lost_at(double time_s) {
  HardwareState state;
  state.time_s = time_s;
  return state;
}

TEST(EnergyMeter, HoldsTheTruthWithinItsUncertainty) {
  const Board board;
  for (const int last : {1, 2, 3, 10, 37, 400}) {
    EnergyMeter meter;
    for (int n = 1; n <= last; ++n) meter.add(board.at(n));
    const EnergyReading reading = meter.reading();
    const double truth_mj = Board::true_mj(last * board.step_s) - Board::true_mj(board.step_s);
    ASSERT_TRUE(reading.energy_mj && (last == 1 || reading.integrated_mj));
    EXPECT_NEAR(*reading.energy_mj, truth_mj, reading.uncertainty_mj + 1.0) << last;
    EXPECT_NEAR(reading.span_s, (last - 1) * board.step_s, 1e-9);
    if (last < 10) continue;
    EXPECT_NEAR(*reading.integrated_mj, truth_mj, 1e-4 * truth_mj + 1.0) << last;
    EXPECT_LT(reading.uncertainty_mj, 0.12 * 1e3 * 350.0);
    EXPECT_EQ(reading.counter_resets + reading.counter_stalls, 0);
  }
  EXPECT_FALSE(EnergyMeter().reading().energy_mj);
}

// Between its reads power tells; its values are told apart by when they were read, where a source
// says so, or by when they changed.
TEST(EnergyMeter, ACounterReadNowAndThenIsBridgedByPower) {
  for (const bool tells_ages : {true, false}) {
    Board board;
    board.counter_step_s = 0.75;
    board.tells_ages = tells_ages;
    for (int first = 0; first < 15; first += 4) {
      for (const int last : {first + 3, first + 10, first + 29, first + 200}) {
        EnergyMeter meter;
        for (int n = first; n <= last; ++n) meter.add(board.at(n));
        const EnergyReading reading = meter.reading();
        const double truth_mj =
            Board::true_mj(last * board.step_s) - Board::true_mj(first * board.step_s);
        EXPECT_NEAR(*reading.energy_mj, truth_mj, 0.5 * reading.uncertainty_mj)
            << tells_ages << " " << first << " to " << last;
        EXPECT_LT(reading.uncertainty_mj, 80e3);
        EXPECT_EQ(reading.counter_resets + reading.counter_stalls, 0);
        if (last == first + 200) {
          EXPECT_LT(std::abs(*reading.disagreement_frac), 0.015);
        }
      }
    }
  }
}

// Polled now and then, the meter meets a value that was read before its sample.
TEST(EnergyMeter, AValueReadBeforeTheSampleCountsUntilThen) {
  Board board;
  board.step_s = 0.4;
  board.counter_step_s = 0.7;
  EnergyMeter meter;
  for (int n = 0; n <= 60; ++n) {
    meter.add(board.at(n));
    const EnergyReading reading = meter.reading();
    EXPECT_NEAR(*reading.energy_mj, Board::true_mj(0.4 * n), 0.6 * reading.uncertainty_mj) << n;
    EXPECT_LT(reading.uncertainty_mj, 80e3) << n;
  }
  EXPECT_LT(std::abs(*meter.reading().disagreement_frac), 0.015);
}

// Power that jumps is read up to a refresh late: where the counter does not tell, the uncertainty
// covers it.
TEST(EnergyMeter, AStepOfPowerBetweenTwoReadsIsWithinTheUncertainty) {
  EnergyMeter meter;
  for (int n = 0; n <= 45; ++n) {  // 100 W, from 2 s on 700 W; the counter is read every 0.75 s
    const double time_s = 0.05 * n;
    const double read_s = 0.75 * std::floor(time_s / 0.75 + 1e-9);
    HardwareState state;
    state.present = true;
    state.time_s = time_s;
    state.power_instant_w = time_s < 2.1 - 1e-9 ? 100.0 : 700.0;
    state.energy_mj = 1e3 * 100.0 * read_s;
    state.status_of(Reading::kEnergy).age_ms = status_ms(time_s - read_s);
    if (n == 45) state.energy_mj = *state.energy_mj - 1e3 * 100.0 * 0.75;  // not read yet
    if (n == 45) state.status_of(Reading::kEnergy).age_ms = 750;
    meter.add(state);
  }
  const EnergyReading reading = meter.reading();
  const double truth_mj = 1e3 * (100.0 * 2.0 + 700.0 * 0.25);
  EXPECT_GT(truth_mj - *reading.energy_mj, 20e3);  // 75 ms of 600 W
  EXPECT_LT(truth_mj - *reading.energy_mj, reading.uncertainty_mj);
}

// One pause in the sampling is no reason to doubt the counter at the ends.
TEST(EnergyMeter, APauseInTheMiddleCostsNoCertainty) {
  const Board board;
  EnergyMeter meter;
  for (int n = 0; n <= 400; ++n)
    if (n < 200 || n > 220) meter.add(board.at(n));
  const EnergyReading reading = meter.reading();
  EXPECT_NEAR(*reading.energy_mj, Board::true_mj(20.0), reading.uncertainty_mj);
  EXPECT_LT(reading.uncertainty_mj, 0.12 * 1e3 * 350.0);
}

TEST(EnergyMeter, ACounterThatFallsIsFilledInFromPower) {
  Board board;
  EnergyMeter meter;
  for (int n = 0; n <= 100; ++n) meter.add(board.at(n));
  board.offset_mj = -board.true_mj(5.0);  // the driver was loaded anew
  for (int n = 101; n <= 200; ++n) meter.add(board.at(n));
  const EnergyReading reading = meter.reading();
  EXPECT_EQ(reading.counter_resets, 1);
  EXPECT_NEAR(*reading.energy_mj, Board::true_mj(10.0), reading.uncertainty_mj);
  EXPECT_LT(reading.uncertainty_mj, 60e3);
}

TEST(EnergyMeter, ACounterThatStandsStillIsSaidSoAndFilledIn) {
  const Board board;
  EnergyMeter meter;
  for (int n = 0; n <= 200; ++n) {
    HardwareState state = board.at(n);
    if (n > 60) state.energy_mj = board.at(60).energy_mj;
    meter.add(state);
  }
  EnergyReading reading = meter.reading();
  EXPECT_EQ(reading.counter_stalls, 1);
  EXPECT_NEAR(*reading.energy_mj, Board::true_mj(10.0), reading.uncertainty_mj);
  EXPECT_GT(reading.uncertainty_mj, 0.4 * Board::true_mj(7.0));
  // It moves again and makes up for what it missed: counted once.
  for (int n = 201; n <= 260; ++n) meter.add(board.at(n));
  reading = meter.reading();
  EXPECT_NEAR(*reading.energy_mj, Board::true_mj(13.0), reading.uncertainty_mj);
  EXPECT_LT(reading.uncertainty_mj, 60e3);
  EXPECT_NEAR(*reading.disagreement_frac, 0.0, 0.01);
}

TEST(EnergyMeter, WithoutACounterPowerIsAllThereIs) {
  const Board board;
  EnergyMeter meter;
  for (int n = 0; n <= 100; ++n) {
    HardwareState state = board.at(n);
    state.energy_mj.reset();
    meter.add(state);
  }
  const EnergyReading reading = meter.reading();
  EXPECT_NEAR(*reading.energy_mj, Board::true_mj(5.0), 1e-3 * Board::true_mj(5.0));
  EXPECT_NEAR(reading.uncertainty_mj, 0.5 * *reading.energy_mj, 1.0);
  EXPECT_FALSE(reading.disagreement_frac);
}

TEST(EnergyMeter, GapsAreCountedButNotIntegrated) {
  const Board board;
  EnergyMeter meter;
  for (int n = 0; n <= 300; ++n) {
    HardwareState state = board.at(n);
    if (n > 100 && n < 200) state = lost_at(state.time_s);  // for 5 s
    meter.add(state);
    meter.add(state);  // read twice: as once
  }
  const EnergyReading reading = meter.reading();
  EXPECT_NEAR(*reading.energy_mj, Board::true_mj(15.0), reading.uncertainty_mj);
  EXPECT_NEAR(reading.span_s, 15.0, 1e-9);
  EXPECT_NEAR(reading.observed_s, 10.0, 1e-9);
  EXPECT_LT(*reading.integrated_mj, 0.7 * *reading.energy_mj);
}

// A real board: the counter and the integral of instantaneous power tell the same.
TEST(EnergyMeter, CounterAndPowerAgreeOnTheRecordedBoard) {
  EnergyMeter meter;
  for (const HardwareState& row :
       read_trace_csv(std::string(THERMOE_SOURCE_DIR) + "/data/telemetry/h100-sxm-700w.csv"))
    meter.add(row);
  const EnergyReading reading = meter.reading();
  ASSERT_TRUE(reading.energy_mj && reading.disagreement_frac);
  EXPECT_LT(std::abs(*reading.disagreement_frac), 0.02);
  EXPECT_LT(reading.uncertainty_mj, 0.002 * *reading.energy_mj);
  EXPECT_EQ(reading.counter_resets + reading.counter_stalls, 0);
}

}  // namespace
}  // namespace thermoe
