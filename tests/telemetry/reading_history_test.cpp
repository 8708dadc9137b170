// What is said of a reading beside its value, on made-up clocks.
#include "telemetry/reading_history.h"

#include <gtest/gtest.h>

#include <set>
#include <string>

#include "telemetry/clocks.h"
#include "telemetry/readings.h"

namespace thermoe {
namespace {

HardwareState state_at(double time_s) {
  HardwareState state;
  state.time_s = time_s;
  state.present = true;
  state.power_instant_w = 300.0;
  return state;
}

TEST(ReadingHistory, EveryReadingHasItsPlace) {
  std::set<std::string> names;
  HardwareState state = state_at(1.0);
  for_each_reading(state, [&names](const char* name, const auto&) { names.insert(name); });
  EXPECT_EQ(names.size(), kReadings);

  // The order is Reading's: what is there is valid, of the right thing, and nothing else is.
  state.dram_active_frac = 0.5;
  state.throttle_reasons = 4;
  ReadingHistory().complete(state);
  for (size_t n = 0; n < kReadings; ++n) {
    const auto reading = static_cast<Reading>(n);
    const bool there = reading == Reading::kPowerInstant || reading == Reading::kDramActive ||
                       reading == Reading::kThrottleReasons;
    EXPECT_EQ(state.status[n].validity, there ? Validity::kValid : Validity::kUnknown) << n;
  }
  EXPECT_EQ(state.status_of(Reading::kPowerInstant).scope, Scope::kBoard);
  EXPECT_EQ(state.status_of(Reading::kDramActive).scope, Scope::kMemory);
  EXPECT_EQ(state.status_of(Reading::kTemperature).scope, Scope::kDie);
}

TEST(ReadingHistory, KeepsWhatTheSourceSays) {
  HardwareState state = state_at(1.0);
  state.status_of(Reading::kPowerInstant) = {120, 0, Validity::kStale, Scope::kModule};
  state.status_of(Reading::kTemperature).validity = Validity::kUnsupported;
  ReadingHistory().complete(state);
  EXPECT_EQ(state.status_of(Reading::kPowerInstant).age_ms, 120);
  EXPECT_EQ(state.status_of(Reading::kPowerInstant).validity, Validity::kStale);
  EXPECT_EQ(state.status_of(Reading::kPowerInstant).scope, Scope::kModule);
  EXPECT_EQ(state.status_of(Reading::kTemperature).validity, Validity::kUnsupported);
}

TEST(ReadingHistory, CountsSinceTheLastChange) {
  ReadingHistory history;
  const auto unchanged_ms = [&history](double time_s, std::optional<double> power_w) {
    HardwareState state = state_at(time_s);
    state.power_instant_w = power_w;
    history.complete(state);
    return state.status_of(Reading::kPowerInstant).unchanged_ms;
  };
  EXPECT_EQ(unchanged_ms(10.0, 300.0), 0);
  EXPECT_EQ(unchanged_ms(10.05, 300.0), 50);
  EXPECT_EQ(unchanged_ms(10.1, 301.0), 0);
  EXPECT_EQ(unchanged_ms(10.2, 301.0), 100);
  EXPECT_EQ(unchanged_ms(10.3, std::nullopt), 0);
  EXPECT_EQ(unchanged_ms(10.4, 301.0), 0);  // nobody knows what it was in between
  EXPECT_EQ(unchanged_ms(3.0, 301.0), 0);   // a source whose clock went back
  EXPECT_EQ(unchanged_ms(10.5, 301.0), 100);
  EXPECT_EQ(unchanged_ms(1e6, 301.0), ReadingStatus::kLongestMs);
}

TEST(ReadingHistory, ACounterThatStandsStillIsStaleUnlessNothingIsDrawn) {
  for (const double power_w : {300.0, 0.0}) {
    ReadingHistory history;
    HardwareState state;
    for (int n = 0; n <= 30; ++n) {
      state = state_at(0.05 * n);
      state.power_instant_w = power_w;
      state.energy_mj = 7e6 + (n < 10 ? n : 10);  // moves until 0.5 s
      history.complete(state);
      const bool due = power_w > 0.0 && n >= 30;
      EXPECT_EQ(state.status_of(Reading::kEnergy).validity,
                due ? Validity::kStale : Validity::kValid)
          << n;
    }
  }
}

TEST(DriverClock, TellsAgesByTheTimeOfDay) {
  DriverClock clock;
  EXPECT_FALSE(clock.age_s(1));
  clock.now(1'000'000'000, 50.0);
  EXPECT_DOUBLE_EQ(*clock.age_s(999'900'000), 0.1);
  EXPECT_DOUBLE_EQ(*clock.age_s(1'000'000'000), 0.0);
  EXPECT_FALSE(clock.age_s(0));              // no stamp
  EXPECT_FALSE(clock.age_s(1'000'000'001));  // from the future
  EXPECT_FALSE(clock.age_s(900'000'000));    // 100 s ago
  clock.now(1'000'060'000, 50.05);           // slewed by 10 ms: still the same clock
  EXPECT_DOUBLE_EQ(*clock.age_s(1'000'000'000), 0.06);
}

TEST(DriverClock, TrustsNoStampFromBeforeAJump) {
  for (const int64_t jump_us :
       {int64_t{5'000'000}, int64_t{3'600'000'000}, int64_t{-2'000'000}, int64_t{-900'000'000}}) {
    DriverClock clock;
    clock.now(10'000'000'000, 50.0);
    const int64_t stamp_us = 9'999'950'000;  // 50 ms before
    EXPECT_DOUBLE_EQ(*clock.age_s(stamp_us), 0.05);
    clock.now(10'000'050'000 + jump_us, 50.05);
    EXPECT_FALSE(clock.age_s(stamp_us)) << jump_us;  // would be 5 s old, or from the future
    // Taken since, by the new clock.
    EXPECT_NEAR(*clock.age_s(10'000'040'000 + jump_us), 0.01, 1e-9) << jump_us;
    clock.now(10'000'100'000 + jump_us, 50.1);
    EXPECT_NEAR(*clock.age_s(10'000'090'000 + jump_us), 0.01, 1e-9) << jump_us;
  }
}

// One that is read less often is not stale for that.
TEST(ReadingHistory, AnEnergyCounterThatWasNotReadAgainIsNotStale) {
  ReadingHistory history;
  HardwareState state;
  state.present = true;
  state.power_instant_w = 300.0;
  state.energy_mj = 5e6;
  for (int n = 0; n <= 30; ++n) {
    state.time_s = 10.0 + 0.1 * n;
    state.status = {};
    state.status_of(Reading::kEnergy).age_ms = n < 25 ? status_ms(0.1 * n) : 0;
    history.complete(state);
    EXPECT_EQ(state.status_of(Reading::kEnergy).validity,
              n < 25 ? Validity::kValid : Validity::kStale)
        << n;
  }
}

}  // namespace
}  // namespace thermoe
