#include "thermoe/thread_pool.h"

#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
#include <cstdint>
#include <numeric>
#include <stdexcept>
#include <thread>
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

TEST(ThreadPool, AWorkerNumberIsOneThreadAtATime) {
  ThreadPool pool(8);  // more than most machines have: some threads come late to every region
  std::vector<int> scratch(8, 0);  // plain ints: ThreadSanitizer sees two threads in one
  int64_t expected = 0;
  for (int region = 0; region < 3000; ++region) {
    const int tasks = 2 + region % 9;
    pool.run(tasks, [&](int task, int worker) { scratch[static_cast<size_t>(worker)] += task; });
    expected += tasks * (tasks - 1) / 2;
  }
  EXPECT_EQ(std::accumulate(scratch.begin(), scratch.end(), int64_t{0}), expected);
}

TEST(ThreadPool, RegionsSeeWhatTheOwnerWroteBetweenThem) {
  ThreadPool pool(4);
  std::vector<int> values(64, 0);
  for (int region = 1; region <= 2000; ++region) {
    const int previous = region - 1;  // lives on this stack frame only
    pool.run(64, [&values, previous](int task, int) {
      if (values[static_cast<size_t>(task)] == previous) ++values[static_cast<size_t>(task)];
    });
    for (int value : values) ASSERT_EQ(value, region);
  }
}

TEST(ThreadPool, WakesSleepers) {
  ThreadPool pool(2);
  for (int region = 0; region < 20; ++region) {
    std::this_thread::sleep_for(std::chrono::milliseconds(2));  // well past the spin
    std::atomic<int> arrived{0};
    // Each task waits for the other: done only if two threads take part.
    pool.run(2, [&](int, int) {
      arrived.fetch_add(1);
      while (arrived.load() < 2) std::this_thread::yield();
    });
    EXPECT_EQ(arrived.load(), 2);
  }
}

TEST(ThreadPool, MayEndAtAnyTime) {
  for (int round = 0; round < 200; ++round) {
    ThreadPool pool(3);
    if (round % 2 == 0) pool.run(5, [](int, int) {});
  }
}

TEST(ThreadPool, RethrowsAndStaysUsable) {
  ThreadPool pool(3);
  EXPECT_THROW(pool.run(10,
                        [](int task, int) {
                          if (task == 7) throw std::runtime_error("seven");
                        }),
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
