#include "thermoe/thread_pool.h"

#include <gtest/gtest.h>

#include <atomic>
#include <stdexcept>
#include <vector>

#include "thermoe/error.h"

namespace thermoe {
namespace {

TEST(ThreadPool, RunsEveryTaskOnceInEveryRegion) {
  ThreadPool pool(4);
  for (int region = 0; region < 2000; ++region) {
    const int tasks = region % 37;
    std::vector<std::atomic<int>> counts(static_cast<size_t>(tasks));
    pool.run(tasks, [&](int task, int worker) {
      EXPECT_GE(worker, 0);
      EXPECT_LT(worker, pool.size());
      counts[static_cast<size_t>(task)].fetch_add(1);
    });
    for (const auto& count : counts) EXPECT_EQ(count.load(), 1);
  }
}

TEST(ThreadPool, RethrowsAndStaysUsable) {
  ThreadPool pool(3);
  EXPECT_THROW(pool.run(10, [](int task, int) { if (task == 7) throw std::runtime_error("seven"); }),
               std::runtime_error);
  std::atomic<int> sum{0};
  pool.run(10, [&](int task, int) { sum += task; });
  EXPECT_EQ(sum.load(), 45);
}

TEST(ThreadPool, OneThreadNeedsNoPool) {
  ThreadPool pool(1);
  EXPECT_EQ(pool.size(), 1);
  int sum = 0;
  pool.run(5, [&](int task, int) { sum += task; });
  EXPECT_EQ(sum, 10);
}

TEST(ThreadPool, RefusesNegativeCounts) { EXPECT_THROW(ThreadPool(-1), InvalidArgument); }

}  // namespace
}  // namespace thermoe
