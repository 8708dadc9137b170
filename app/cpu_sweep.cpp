#include "cpu_sweep.h"

#include <fmt/format.h>
#include <sys/utsname.h>

#include <algorithm>
#include <atomic>
#include <chrono>

#include "sweep_sample.h"

namespace thermoe::app {
namespace {

using Clock = std::chrono::steady_clock;

constexpr int64_t kLeastOtherBytes = int64_t{64} << 20, kMostOtherBytes = int64_t{2} << 30;
constexpr int64_t kUnknownCacheBytes = int64_t{256} << 20;  // of a large server
constexpr size_t kWordsPerTask = 1 << 16;
constexpr int kLeastRepeats = 5;
constexpr int kWarmUps = 3;
constexpr double kLeastPowerS = 0.05;  // the energy counters move once a millisecond

double seconds_since(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

std::string kernel_release() {
  utsname name{};
  if (uname(&name) != 0) return "unknown kernel";
  return fmt::format("{} {}", name.sysname, name.release);
}

size_t other_words(const CpuSensors& sensors) {
  const int64_t cache = sensors.last_level_cache_bytes().value_or(kUnknownCacheBytes);
  const int64_t bytes = std::clamp(2 * cache, kLeastOtherBytes, kMostOtherBytes);
  return static_cast<size_t>(bytes) / sizeof(uint64_t) / kWordsPerTask * kWordsPerTask;
}

}  // namespace

CpuSweep::CpuSweep(int threads, const CpuSensors& sensors)
    : sensors_(sensors),
      device_(without_commas(sensors.name())),
      driver_(without_commas(kernel_release())),
      pool_(threads),
      other_memory_(other_words(sensors), 1) {}

void CpuSweep::fill_caches() {
  std::atomic<uint64_t> total{0};  // so that the reads aren't left out
  pool_.run(static_cast<int>(other_memory_.size() / kWordsPerTask), [&](int task, int) {
    const uint64_t* words = other_memory_.data() + static_cast<size_t>(task) * kWordsPerTask;
    uint64_t sum = 0;
    for (size_t i = 0; i < kWordsPerTask; ++i) sum += words[i];
    total.fetch_add(sum, std::memory_order_relaxed);
  });
}

MeasuredPeaks CpuSweep::peaks() {
  MeasuredPeaks peaks;
  const double bytes = static_cast<double>(other_memory_.size() * sizeof(uint64_t));
  for (int i = 0; i < kLeastRepeats; ++i) {
    const auto start = Clock::now();
    fill_caches();
    peaks.memory_bytes_per_s = std::max(peaks.memory_bytes_per_s, bytes / seconds_since(start));
  }
  constexpr int64_t kSize = 2048, kRows = 1024;
  cost::KernelShape shape;
  shape.op = cost::Operation::kLinear;
  shape.hidden_size = shape.inter_size = kSize;
  CpuWork& product = work_for(shape);
  product.prepare(kRows, 0);
  for (int i = 0; i < kLeastRepeats; ++i)
    peaks.bf16_flops_per_s = std::max(peaks.bf16_flops_per_s,
                                      2.0 * kSize * kSize * kRows / (product.run_us(pool_) * 1e-6));
  return peaks;
}

CpuWork& CpuSweep::work_for(const cost::KernelShape& shape) {
  cost::KernelShape sizes = shape;
  sizes.load_exponent = 0;
  if (work_ == nullptr || !(sizes == shape_)) {
    work_.reset();  // before the next one's weights are made
    work_ = make_cpu_work(sizes);
    shape_ = sizes;
  }
  return *work_;
}

std::vector<double> CpuSweep::repeat(CpuWork& work, bool cold, double seconds) {
  std::vector<double> times_us;
  const auto start = Clock::now();
  while (times_us.size() < kLeastRepeats || seconds_since(start) < seconds) {
    if (cold) fill_caches();
    times_us.push_back(work.run_us(pool_));
  }
  return times_us;
}

SweepSample CpuSweep::run(const SweepPoint& point, double seconds) {
  const auto begin = Clock::now();
  CpuWork& work = work_for(point.shape);
  work.prepare(point.tokens, point.shape.load_exponent);
  for (int i = 0; i < kWarmUps; ++i) work.run_us(pool_);
  const CpuSensors::Counters before = sensors_.read();
  const auto start = Clock::now();
  std::vector<double> times_us = repeat(work, point.cold, seconds);
  const double took_s = seconds_since(start);
  SweepSample sample;
  sample.clock_mhz = sensors_.clock_mhz(threads());
  const CpuSensors::Counters after = sensors_.read();
  std::sort(times_us.begin(), times_us.end());
  sample.latency_us = quantile_of(times_us, 0.5);
  sample.spread_frac =
      (quantile_of(times_us, 0.75) - quantile_of(times_us, 0.25)) / sample.latency_us;
  const std::optional<double> energy_j = sensors_.energy_j(before, after);
  if (energy_j && *energy_j > 0 && !point.cold && took_s >= kLeastPowerS) {
    sample.power_w = *energy_j / took_s;
    sample.power_limit_w = sensors_.power_limit_w();
  }
  sample.throttled = before.throttle_events && after.throttle_events &&
                     *after.throttle_events > *before.throttle_events;
  sample.wall_s = seconds_since(begin);
  return sample;
}

}  // namespace thermoe::app
