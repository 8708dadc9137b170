#include "thermoe/gpu_system_monitor.h"

#include <fmt/format.h>

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <exception>
#include <mutex>
#include <thread>
#include <utility>

#include "telemetry/clocks.h"
#include "telemetry/poll_schedule.h"
#include "telemetry/published_state.h"
#include "telemetry/reading_history.h"
#include "thermoe/error.h"

namespace thermoe {

using Clock = PollSchedule::Clock;

namespace {

int64_t nanoseconds(Clock::duration time) {
  return std::chrono::duration_cast<std::chrono::nanoseconds>(time).count();
}
double seconds(const std::atomic<int64_t>& nanoseconds) {
  return 1e-9 * static_cast<double>(nanoseconds.load(std::memory_order_relaxed));
}

}  // namespace

struct GpuSystemMonitor::State {
  std::unique_ptr<TelemetrySource> source;
  ReadingHistory history;  // the source's: touched only by who samples
  MonitorSettings settings;
  std::string source_name;  // copies: the source itself belongs to one thread
  DeviceInfo device;

  PublishedState published;
  std::atomic<uint64_t> samples{0};
  std::atomic<uint64_t> skipped_ticks{0};
  std::atomic<uint64_t> failures{0};
  std::atomic<int64_t> sampling_ns{0}, thread_ns{0}, thread_cpu_ns{0};

  std::mutex control_mutex;  // serialises start(), stop() and poll(); held over poll()'s sample
  std::thread thread;
  std::mutex wake_mutex;  // guards stop_requested
  std::condition_variable wake;
  bool stop_requested = false;

  HardwareState sample_and_publish() {
    const Clock::time_point begin = Clock::now();
    HardwareState sampled = source->sample();
    sampling_ns.fetch_add(nanoseconds(Clock::now() - begin), std::memory_order_relaxed);
    history.complete(sampled);
    published.publish(sampled);
    samples.fetch_add(1, std::memory_order_relaxed);
    return sampled;
  }

  // On the polling thread an exception would end the process: a source that throws although it must
  // not is published as a lost device, and counted.
  void sample_on_thread() {
    try {
      sample_and_publish();
    } catch (const std::exception&) {
      HardwareState lost;
      lost.time_s = published.read().time_s;
      published.publish(lost);
      failures.fetch_add(1, std::memory_order_relaxed);
    }
  }

  void run() {
    Clock::time_point counted = Clock::now();
    int64_t counted_cpu_ns = 0;
    PollSchedule schedule(counted, settings.rate_hz);
    for (;;) {
      const Clock::time_point begin = Clock::now();
      sample_on_thread();
      const Clock::time_point end = Clock::now();
      skipped_ticks.fetch_add(schedule.advance(begin, end), std::memory_order_relaxed);
      const int64_t cpu_ns = thermoe::thread_cpu_ns();
      thread_cpu_ns.fetch_add(cpu_ns - counted_cpu_ns, std::memory_order_relaxed);
      thread_ns.fetch_add(nanoseconds(end - counted), std::memory_order_relaxed);
      counted_cpu_ns = cpu_ns;
      counted = end;
      std::unique_lock lock(wake_mutex);
      if (wake.wait_until(lock, schedule.deadline(), [this] { return stop_requested; })) return;
    }
  }
};

GpuSystemMonitor::GpuSystemMonitor(std::unique_ptr<TelemetrySource> source,
                                   MonitorSettings settings)
    : state_(std::make_unique<State>()) {
  if (source == nullptr) throw InvalidArgument("GpuSystemMonitor: source is null; open one first");
  if (!(settings.rate_hz >= 0.1 && settings.rate_hz <= 1000.0)) {
    throw InvalidArgument(fmt::format(
        "GpuSystemMonitor: rate_hz is {}; choose one from 0.1 to 1000", settings.rate_hz));
  }
  state_->source_name = source->name();
  state_->device = source->device();
  state_->settings = settings;
  state_->source = std::move(source);
}

GpuSystemMonitor::~GpuSystemMonitor() { stop(); }

void GpuSystemMonitor::start() {
  const std::lock_guard control(state_->control_mutex);
  if (state_->thread.joinable()) return;
  state_->stop_requested = false;  // no thread runs: nobody else looks at it
  state_->thread = std::thread([state = state_.get()] { state->run(); });
}

void GpuSystemMonitor::stop() {
  const std::lock_guard control(state_->control_mutex);
  if (!state_->thread.joinable()) return;
  {
    const std::lock_guard lock(state_->wake_mutex);
    state_->stop_requested = true;
  }
  state_->wake.notify_one();
  state_->thread.join();
}

HardwareState GpuSystemMonitor::poll() {
  const std::lock_guard control(state_->control_mutex);
  if (state_->thread.joinable()) {
    throw InvalidArgument(
        "GpuSystemMonitor: poll() while the polling thread runs; call stop() first, or read "
        "state()");
  }
  return state_->sample_and_publish();
}

HardwareState GpuSystemMonitor::state() const noexcept { return state_->published.read(); }

MonitorStats GpuSystemMonitor::stats() const noexcept {
  MonitorStats stats;
  stats.samples = state_->samples.load(std::memory_order_relaxed);
  stats.skipped_ticks = state_->skipped_ticks.load(std::memory_order_relaxed);
  stats.failures = state_->failures.load(std::memory_order_relaxed);
  stats.sampling_s = seconds(state_->sampling_ns);
  stats.thread_s = seconds(state_->thread_ns);
  stats.thread_cpu_s = seconds(state_->thread_cpu_ns);
  return stats;
}

DeviceInfo GpuSystemMonitor::device() const { return state_->device; }
std::string GpuSystemMonitor::source_name() const { return state_->source_name; }

}  // namespace thermoe
