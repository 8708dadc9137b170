// The clocks that telemetry is timed by, and ages by the driver's stamps, which are wall-clock
// time.
#pragma once

#include <chrono>
#include <cstdint>
#include <ctime>
#include <limits>
#include <optional>

namespace thermoe {

inline double monotonic_s() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}
inline int64_t wall_clock_us() {
  return std::chrono::duration_cast<std::chrono::microseconds>(
             std::chrono::system_clock::now().time_since_epoch())
      .count();
}
// Processor time of the calling thread, in the kernel as well.
inline int64_t thread_cpu_ns() {
  timespec time{};
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &time);
  return int64_t{1'000'000'000} * time.tv_sec + time.tv_nsec;
}

// The wall clock may be set while we run; the steady clock may not. Where the two disagree about
// the time since the last call of now(), the wall clock was set, and stamps from before mean
// nothing any more. Not thread-safe.
class DriverClock {
 public:
  // Adjusting (NTP slews by 0.05 %) and the pause between reading the two clocks stay below.
  static constexpr int64_t kJumpUs = 20'000;
  // A stamp further back is none of a value that is refreshed.
  static constexpr int64_t kOldestUs = 60'000'000;

  // Both clocks, read one right after the other.
  void now(int64_t wall_us, double steady_s) {
    if (any_) {
      const auto passed_us = static_cast<int64_t>(1e6 * (steady_s - steady_s_));
      const int64_t error_us = wall_us - wall_us_ - passed_us;
      if (error_us > kJumpUs || error_us < -kJumpUs) trusted_from_us_ = wall_us - passed_us;
    }
    any_ = true;
    wall_us_ = wall_us;
    steady_s_ = steady_s;
  }

  // How long before the last now() a value of this stamp was taken, in seconds; nothing where the
  // stamp can't be trusted: zero, from the future, too old, or from before the clock was set.
  std::optional<double> age_s(int64_t stamp_us) const {
    if (!any_ || stamp_us <= 0 || stamp_us < trusted_from_us_) return std::nullopt;
    const int64_t age_us = wall_us_ - stamp_us;
    if (age_us < 0 || age_us > kOldestUs) return std::nullopt;
    return 1e-6 * static_cast<double>(age_us);
  }

 private:
  bool any_ = false;
  int64_t wall_us_ = 0;
  double steady_s_ = 0;
  int64_t trusted_from_us_ = std::numeric_limits<int64_t>::min();
};

}  // namespace thermoe
