// When the polling thread samples next.
#pragma once

#include <algorithm>
#include <chrono>
#include <cstdint>

namespace thermoe {

// Deadlines lie on the grid start + n · period. What the thread spends in calls stays at or below
// kLoadFrac of its time, unless a single call takes so long that the pause would exceed kPauseMax.
class PollSchedule {
 public:
  using Clock = std::chrono::steady_clock;
  static constexpr double kLoadFrac = 0.10;
  static constexpr Clock::duration kPauseMax = std::chrono::seconds(10);

  PollSchedule(Clock::time_point start, double rate_hz)
      : period_(std::chrono::duration_cast<Clock::duration>(
            std::chrono::duration<double>(1.0 / rate_hz))),
        deadline_(start) {}

  // After a call that took from `begin` to `end`: moves on to the next deadline that keeps the load
  // bounded. Returns how many were skipped; a missed one is not made up for.
  uint64_t advance(Clock::time_point begin, Clock::time_point end) {
    const auto wanted =
        std::chrono::duration<double>(end - begin) * ((1.0 - kLoadFrac) / kLoadFrac);
    const Clock::duration pause =
        wanted < kPauseMax ? std::chrono::duration_cast<Clock::duration>(wanted) : kPauseMax;
    const Clock::duration behind = end + pause - deadline_;
    const auto ticks = std::max<Clock::rep>(1, (behind + period_ - Clock::duration(1)) / period_);
    deadline_ += ticks * period_;
    return static_cast<uint64_t>(ticks - 1);
  }

  Clock::time_point deadline() const { return deadline_; }

 private:
  Clock::duration period_;
  Clock::time_point deadline_;
};

}  // namespace thermoe
