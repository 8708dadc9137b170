#include "thermoe/throttle_meter.h"

#include <algorithm>
#include <array>

namespace thermoe {
namespace {

struct Counter {
  std::optional<double> HardwareState::*total;
  std::optional<double> ThrottleTimes::*time;
};

constexpr size_t kPowerOrHeat = 4;  // those come first
constexpr std::array kCounters = {
    Counter{&HardwareState::throttled_power_cap_s, &ThrottleTimes::power_cap_s},
    Counter{&HardwareState::throttled_power_brake_s, &ThrottleTimes::power_brake_s},
    Counter{&HardwareState::throttled_thermal_s, &ThrottleTimes::thermal_s},
    Counter{&HardwareState::throttled_hardware_thermal_s, &ThrottleTimes::hardware_thermal_s},
    Counter{&HardwareState::throttled_board_limit_s, &ThrottleTimes::board_limit_s},
    Counter{&HardwareState::throttled_reliability_s, &ThrottleTimes::reliability_s},
};

bool fell(const Counter& counter, const HardwareState& before, const HardwareState& after) {
  return before.*counter.total && after.*counter.total &&
         *(after.*counter.total) < *(before.*counter.total);
}

}  // namespace

std::optional<double> ThrottleTimes::longest_s() const {
  std::optional<double> longest;
  for (size_t n = 0; n < kPowerOrHeat; ++n)
    if (const std::optional<double>& time = this->*kCounters[n].time)
      longest = std::max(longest.value_or(0.0), *time);
  return longest;
}

ThrottleTimes throttled_between(const HardwareState& before, const HardwareState& after) {
  ThrottleTimes times;
  for (const Counter& counter : kCounters) {
    const std::optional<double>&from = before.*counter.total, &to = after.*counter.total;
    if (!from || !to) continue;
    times.*counter.time =
        *to >= *from ? *to - *from : std::min(*to, std::max(0.0, after.time_s - before.time_s));
  }
  return times;
}

void ThrottleMeter::add(const HardwareState& state) {
  if (any_ && state.time_s <= last_s_) return;
  if (!any_) first_s_ = state.time_s;
  if (any_ && held_back_) reasons_s_ += state.time_s - last_s_;
  any_ = true;
  last_s_ = state.time_s;
  held_back_ = state.present && state.throttled();
  if (!state.present) return;
  const ThrottleTimes step = throttled_between(last_, state);
  for (const Counter& counter : kCounters) {
    if (step.*counter.time)
      counted_.*counter.time = (counted_.*counter.time).value_or(0.0) + *(step.*counter.time);
    if (fell(counter, last_, state)) ++resets_;
  }
  // A counter that can't be read for once goes on from where it was.
  HardwareState kept = state;
  for (const Counter& counter : kCounters)
    if (!(kept.*counter.total)) kept.*counter.total = last_.*counter.total;
  last_ = kept;
}

ThrottleReading ThrottleMeter::reading() const {
  ThrottleReading reading;
  reading.span_s = last_s_ - first_s_;
  reading.reasons_s = reasons_s_;
  reading.counter_resets = resets_;
  // Counters are refreshed late and may show time from before the first sample.
  reading.counted = counted_;
  for (const Counter& counter : kCounters)
    if (std::optional<double>& time = reading.counted.*counter.time)
      *time = std::min(*time, reading.span_s);
  reading.by_counters = reading.counted.power_cap_s && reading.counted.thermal_s;
  reading.throttled_s = reading.by_counters ? *reading.counted.longest_s() : reasons_s_;
  return reading;
}

}  // namespace thermoe
