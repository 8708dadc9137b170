// How often a query is worth asking: each time where it is quick, within a share of the time where
// it is not.
#pragma once

#include <algorithm>

namespace thermoe {

// For one query. What a call costs is its processor time, and what it waited beyond that only where
// the call before waited as well: else the thread was kept from running. A query is slow where its
// last two calls took kQuickS or longer (quick ones have outliers); it is due again after cost /
// share. A quick one is always due, but never within `least_s` of the last.
class Pace {
 public:
  static constexpr double kQuickS = 0.15e-3;

  explicit Pace(double share, double least_s = 0.0) : share_(share), least_s_(least_s) {}
  bool due(double now_s) const { return now_s >= due_s_; }
  bool slow() const { return slow_; }
  // The last two calls were quick.
  bool quick() const { return quick_; }
  // Whether there were calls enough to tell.
  bool known() const { return calls_ >= kCallsToKnow; }
  double share() const { return share_; }
  double cost_s() const { return last_cost_s_; }  // of the last call
  // A call that began at `now_s` took `wall_s`, `cpu_s` of it processor time.
  void done(double now_s, double wall_s, double cpu_s) {
    const double cost_s = std::max(cpu_s, std::min(wall_s, last_wall_s_));
    slow_ = std::min(cost_s, last_cost_s_) >= kQuickS;
    quick_ = std::max(cost_s, last_cost_s_) < kQuickS;
    due_s_ = now_s + std::max(least_s_, slow_ ? cost_s / share_ : 0.0);
    last_wall_s_ = wall_s;
    last_cost_s_ = cost_s;
    calls_ = std::min(calls_ + 1, kCallsToKnow);
  }

 private:
  double share_, least_s_;
  double due_s_ = 0.0, last_wall_s_ = 0.0, last_cost_s_ = 0.0;
  bool slow_ = false, quick_ = true;
  static constexpr int kCallsToKnow = 3;  // a wait counts from the second, and twice is slow
  int calls_ = 0;
};

}  // namespace thermoe
