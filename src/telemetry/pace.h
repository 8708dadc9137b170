// How often something costly is worth reading.
#pragma once

#include <algorithm>

namespace thermoe {

// Spends at most `share` of the time on calls, which come at least `least_s` apart. A call is due
// at once, then after its own cost / share.
class Pace {
 public:
  Pace(double share, double least_s) : share_(share), least_s_(least_s) {}
  bool due(double now_s) const { return now_s >= due_s_; }
  // A call that began at `now_s` took `cost_s`.
  void done(double now_s, double cost_s) { due_s_ = now_s + std::max(least_s_, cost_s / share_); }

 private:
  double share_, least_s_;
  double due_s_ = 0;
};

}  // namespace thermoe
