#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
#include <limits>
#include <memory>
#include <stdexcept>
#include <thread>
#include <vector>

#include "telemetry/clocks.h"
#include "telemetry/poll_schedule.h"
#include "thermoe/error.h"
#include "thermoe/gpu_system_monitor.h"

namespace thermoe {
namespace {

using namespace std::chrono_literals;

// Counts its samples; each takes `call_time`; throws where told to.
class CountingSource final : public TelemetrySource {
 public:
  explicit CountingSource(std::chrono::milliseconds call_time = 0ms, bool throws = false)
      : call_time_(call_time), throws_(throws) {}
  std::string name() const override { return "counting"; }
  DeviceInfo device() const override { return {"A Device", "uuid", "1.0", true}; }
  HardwareState sample() override {
    if (call_time_ > 0ms) std::this_thread::sleep_for(call_time_);
    if (throws_ && ++count_ > 1) throw std::runtime_error("broken source");
    HardwareState state;
    state.time_s = throws_ ? 1.0 : ++count_;
    state.present = true;
    return state;
  }

 private:
  std::chrono::milliseconds call_time_;
  bool throws_;
  int count_ = 0;
};

// Waits up to 30 s, so that a loaded machine delays the test instead of failing it.
template <typename Condition>
bool eventually(Condition condition) {
  for (int i = 0; i < 30000; ++i) {
    if (condition()) return true;
    std::this_thread::sleep_for(1ms);
  }
  return false;
}

TEST(GpuSystemMonitor, PollsInVirtualTime) {
  GpuSystemMonitor monitor(std::make_unique<CountingSource>());
  EXPECT_FALSE(monitor.state().present);
  for (int i = 1; i <= 5; ++i) {
    EXPECT_EQ(monitor.poll().time_s, i);
    EXPECT_EQ(monitor.state().time_s, i);
  }
  EXPECT_EQ(monitor.stats().samples, 5u);
  EXPECT_EQ(monitor.source_name(), "counting");
  EXPECT_EQ(monitor.device().uuid, "uuid");
}

TEST(GpuSystemMonitor, RefusesWhatItCannotDo) {
  EXPECT_THROW(GpuSystemMonitor(nullptr), InvalidArgument);
  for (const double rate_hz : {0.0, -1.0, 0.09, 1001.0, std::numeric_limits<double>::quiet_NaN()}) {
    EXPECT_THROW(GpuSystemMonitor(std::make_unique<CountingSource>(), {rate_hz}), InvalidArgument)
        << rate_hz;
  }
}

TEST(GpuSystemMonitor, StartsAndStopsAnyNumberOfTimes) {
  GpuSystemMonitor monitor(std::make_unique<CountingSource>(), {200.0});
  monitor.stop();
  for (int round = 1; round <= 3; ++round) {
    monitor.start();
    monitor.start();
    EXPECT_THROW(monitor.poll(), InvalidArgument);
    const uint64_t before = monitor.stats().samples;
    EXPECT_TRUE(eventually([&] { return monitor.stats().samples > before + 2; }));
    monitor.stop();
    monitor.stop();
    const uint64_t after = monitor.stats().samples;
    EXPECT_EQ(monitor.state().time_s, static_cast<double>(after));
    std::this_thread::sleep_for(20ms);
    EXPECT_EQ(monitor.stats().samples, after);
  }
  EXPECT_NO_THROW(monitor.poll());
}

TEST(GpuSystemMonitor, StopDoesNotWaitForTheNextTick) {
  GpuSystemMonitor monitor(std::make_unique<CountingSource>(), {0.1});
  const auto begin = std::chrono::steady_clock::now();
  monitor.start();
  EXPECT_TRUE(eventually([&] { return monitor.stats().samples == 1; }));
  monitor.stop();
  EXPECT_LT(std::chrono::steady_clock::now() - begin, 5s);  // a tick is 10 s
}

TEST(GpuSystemMonitor, ServesReadersWhileItRunsAndRestarts) {
  GpuSystemMonitor monitor(std::make_unique<CountingSource>(), {1000.0});
  std::atomic<bool> done{false};
  std::atomic<int> wrong{0};
  std::vector<std::thread> readers;
  for (int r = 0; r < 2; ++r) {
    readers.emplace_back([&] {
      double last_s = 0.0;
      while (!done.load(std::memory_order_relaxed)) {
        const HardwareState state = monitor.state();
        if (state.time_s < last_s || state.present != (state.time_s > 0.0)) ++wrong;
        last_s = state.time_s;
        (void)monitor.stats();
      }
    });
  }
  for (int round = 0; round < 3; ++round) {
    monitor.start();
    std::this_thread::sleep_for(30ms);
    monitor.stop();
    monitor.poll();
  }
  done = true;
  for (std::thread& reader : readers) reader.join();
  EXPECT_EQ(wrong, 0);
  EXPECT_GE(monitor.stats().samples, 6u);
}

// A source that takes 20 ms may be asked once in 200 ms; without the bound it would be at work for
// 40 per cent of the time at 20 Hz.
TEST(GpuSystemMonitor, BacksOffFromASlowSource) {
  GpuSystemMonitor monitor(std::make_unique<CountingSource>(20ms), {20.0});
  const auto begin = std::chrono::steady_clock::now();
  monitor.start();
  EXPECT_TRUE(eventually([&] { return monitor.stats().samples >= 4; }));
  monitor.stop();
  const std::chrono::duration<double> took = std::chrono::steady_clock::now() - begin;
  const MonitorStats stats = monitor.stats();
  EXPECT_GE(took.count(), 0.6);  // three pauses of 180 ms or more, and the calls
  EXPECT_GE(stats.sampling_s, 0.079);
  EXPECT_GE(stats.skipped_ticks, 9u);
}

// Uses the processor for half a millisecond each time.
class BusySource final : public TelemetrySource {
 public:
  std::string name() const override { return "busy"; }
  DeviceInfo device() const override { return {}; }
  HardwareState sample() override {
    const int64_t until_ns = thread_cpu_ns() + 500'000;
    while (thread_cpu_ns() < until_ns) {
    }
    HardwareState state;
    state.time_s = ++count_;
    return state;
  }

 private:
  int count_ = 0;
};

TEST(GpuSystemMonitor, CountsTheProcessorTimeOfItsThread) {
  GpuSystemMonitor monitor(std::make_unique<BusySource>(), {50.0});
  (void)monitor.poll();
  EXPECT_EQ(monitor.stats().thread_cpu_s, 0.0);  // not the thread's
  EXPECT_EQ(monitor.stats().thread_cpu_frac(), 0.0);
  for (int round = 0; round < 2; ++round) {  // goes on after a restart
    const uint64_t before = monitor.stats().samples;
    monitor.start();
    EXPECT_TRUE(eventually([&] { return monitor.stats().samples >= before + 10; }));
    monitor.stop();
  }
  const MonitorStats stats = monitor.stats();
  const auto on_thread = static_cast<double>(stats.samples - 1);
  EXPECT_GE(stats.thread_cpu_s, 0.0005 * on_thread);
  EXPECT_LT(stats.thread_cpu_s, 0.005 * on_thread);
  EXPECT_GE(stats.thread_s, 0.3);  // two times nine pauses of 20 ms
  EXPECT_DOUBLE_EQ(stats.thread_cpu_frac(), stats.thread_cpu_s / stats.thread_s);
}

TEST(GpuSystemMonitor, CompletesTheStatusOfAnySource) {
  GpuSystemMonitor monitor(
      open_replay_source(THERMOE_SOURCE_DIR "/data/telemetry/h100-sxm-700w.csv", 0.025));
  HardwareState state = monitor.poll();
  for (int n = 0; n < 20; ++n) state = monitor.poll();
  EXPECT_EQ(state.status_of(Reading::kTemperature).validity, Validity::kValid);
  EXPECT_EQ(state.status_of(Reading::kMemoryTemperature).scope, Scope::kMemory);
  EXPECT_EQ(state.status_of(Reading::kPowerLimit).validity, Validity::kUnknown);
  // The clock of the memory has been the same since the first row, the power has not.
  EXPECT_NEAR(state.status_of(Reading::kMemClock).unchanged_ms, 1e3 * state.time_s, 1.0);
  EXPECT_LT(state.status_of(Reading::kPowerInstant).unchanged_ms, 150);
}

TEST(GpuSystemMonitor, PublishesASourceThatThrowsAsLost) {
  GpuSystemMonitor monitor(std::make_unique<CountingSource>(0ms, true), {500.0});
  EXPECT_TRUE(monitor.poll().present);
  EXPECT_THROW(monitor.poll(), std::runtime_error);
  EXPECT_TRUE(monitor.state().present);
  monitor.start();
  EXPECT_TRUE(eventually([&] { return monitor.stats().failures >= 2; }));
  monitor.stop();
  EXPECT_FALSE(monitor.state().present);
  EXPECT_EQ(monitor.state().time_s, 1.0);
}

class Schedule : public ::testing::Test {
 protected:
  // Runs one call that starts at its deadline (or `late_ms` after it) and takes `call_ms`; the
  // deadline that follows, in ms after the start.
  double after(double call_ms, double late_ms = 0.0) {
    const auto begin = schedule_.deadline() + ms(late_ms);
    skipped_ += schedule_.advance(begin, begin + ms(call_ms));
    return std::chrono::duration<double, std::milli>(schedule_.deadline() - start_).count();
  }
  static PollSchedule::Clock::duration ms(double value) {
    return std::chrono::duration_cast<PollSchedule::Clock::duration>(
        std::chrono::duration<double, std::milli>(value));
  }
  const PollSchedule::Clock::time_point start_{1000s};
  PollSchedule schedule_{start_, 20.0};
  uint64_t skipped_ = 0;
};

TEST_F(Schedule, KeepsAbsoluteDeadlines) {
  EXPECT_EQ(after(1.0), 50.0);
  EXPECT_EQ(after(4.9, 0.3), 100.0);  // lateness isn't handed on
  EXPECT_EQ(after(0.0), 150.0);
  EXPECT_EQ(skipped_, 0u);
}

TEST_F(Schedule, SkipsAsManyTicksAsASlowCallCosts) {
  EXPECT_EQ(after(20.0), 200.0);  // 20 ms in 200 ms: a tenth
  EXPECT_EQ(skipped_, 3u);
  EXPECT_EQ(after(6.0), 300.0);  // 60 ms, rounded up to a tick
  EXPECT_EQ(after(1.0), 350.0);
  EXPECT_EQ(skipped_, 4u);
}

TEST_F(Schedule, SkipsWhatIsMissedAndPausesTenSecondsAtMost) {
  EXPECT_EQ(after(1.0, 400.0), 450.0);  // a late thread doesn't catch up in a burst
  EXPECT_EQ(skipped_, 8u);
  EXPECT_EQ(after(60000.0), 450.0 + 70000.0);
}

}  // namespace
}  // namespace thermoe
