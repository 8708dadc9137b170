// What slow queries may cost, in virtual time.
#include "telemetry/pace.h"

#include <gtest/gtest.h>

#include <utility>

namespace thermoe {
namespace {

// Ticks at 20 Hz for `seconds`; cost(n) is what the n-th call takes of wall and of processor time.
struct Spent {
  int calls = 0;
  double wall_s = 0;
};
template <typename Cost>
Spent run(Pace pace, double seconds, Cost cost) {
  Spent spent;
  for (double now_s = 100.0; now_s < 100.0 + seconds; now_s += 0.05) {
    if (!pace.due(now_s)) continue;
    const auto [wall_s, cpu_s] = cost(spent.calls++);
    spent.wall_s += wall_s;
    pace.done(now_s, wall_s, cpu_s);
  }
  return spent;
}
using Times = std::pair<double, double>;

TEST(Pace, ASlowQueryStaysWithinItsShare) {
  // As energy does on an H100, in the kernel all along; some calls take three times as long.
  const auto energy = [](int n) {
    const double cost_s = n % 5 == 4 ? 12e-3 : 4e-3;
    return Times{cost_s, cost_s};
  };
  const Spent spent = run(Pace(0.005), 100.0, energy);
  EXPECT_LT(spent.wall_s - 2 * 4e-3, 0.005 * 100.0 + 4e-3);  // the first two show what it is
  EXPECT_GT(spent.wall_s, 0.9 * 0.005 * 100.0);              // and no less often than it may be
  // One that waits as long is no burden on a core, but holds up the thread as much.
  const Spent waited = run(Pace(0.005), 100.0, [](int) { return Times{4e-3, 1e-5}; });
  EXPECT_LT(waited.wall_s - 3 * 4e-3, 0.005 * 100.0 + 4e-3);
}

TEST(Pace, AQuickQueryIsDueEachTimeWhateverItsOutliers) {
  const auto quick = [](int n) {
    if (n % 7 == 3) return Times{3e-3, 3e-3};    // the driver was busy
    if (n % 7 == 5) return Times{40e-3, 20e-6};  // the thread was not running
    return Times{30e-6, 30e-6};
  };
  EXPECT_EQ(run(Pace(0.001), 50.0, quick).calls, 1000);
  EXPECT_NEAR(run(Pace(0.001, 0.5), 50.0, quick).calls, 100, 10);  // but for its least interval
}

// A slow one that is preempted is not put off for that.
TEST(Pace, TimeInWhichTheThreadDidNotRunIsNotTheCalls) {
  const auto preempted = [](int n) { return Times{n % 2 == 0 ? 4e-3 : 200e-3, 4e-3}; };
  EXPECT_GT(run(Pace(0.005), 100.0, preempted).calls, 100);
}

TEST(Pace, FollowsAQueryThatChanges) {
  Pace pace(0.001);
  EXPECT_FALSE(pace.known());
  double now_s = 1.0;
  for (int n = 0; n < 3; ++n) pace.done(now_s, 2e-3, 2e-3);
  EXPECT_TRUE(pace.known() && pace.slow());
  EXPECT_FALSE(pace.due(now_s + 1.9));
  EXPECT_TRUE(pace.due(now_s += 2.01));
  pace.done(now_s, 20e-6, 20e-6);
  EXPECT_FALSE(pace.slow());
  EXPECT_TRUE(pace.due(now_s));
}

}  // namespace
}  // namespace thermoe
