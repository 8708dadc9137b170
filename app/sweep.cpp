#include "sweep.h"

#include <fmt/format.h>

#include <algorithm>

#include "cost/moe_load.h"
#include "sweep_log.h"
#include "thermoe/version.h"

namespace thermoe::app {
namespace {

constexpr double kHeldBackFrac = 0.85;  // of the median clock; a governor's steps are smaller
constexpr size_t kLeastClocks = 8;
constexpr double kLeastSampleS = 0.005, kMostSampleS = 2;

SweepRow measure(SweepBackend& backend, const SweepPoint& point, double seconds,
                 const ClockMedian& clocks) {
  SweepRow row = row_of(backend, point);
  const SweepSample sample = backend.run(point, seconds);
  row.measured.latency_us = sample.latency_us;
  row.measured.power_w = sample.power_w.value_or(0);
  row.measured.power_limit_w = sample.power_limit_w.value_or(0);
  row.clock_mhz = sample.clock_mhz;
  row.spread_frac = sample.spread_frac;
  row.sample_s = sample.wall_s;
  row.power_capped = sample.power_capped;
  row.throttled = sample.throttled || clocks.fell(row);
  return row;
}

// What each point may take of the budget beyond what points must have.
double seconds_each(const std::vector<SweepPoint>& points, double budget_s) {
  double shared_s = budget_s, sharers = 1;
  for (const SweepPoint& point : points) {
    shared_s -= point.least_s;
    sharers += point.least_s > 0 ? 0 : 1;
  }
  return std::clamp(shared_s / sharers, kLeastSampleS, kMostSampleS);
}

}  // namespace

SweepRow row_of(const SweepBackend& backend, const SweepPoint& point) {
  SweepRow row;
  const bool experts = point.shape.op == cost::Operation::kExperts;
  row.measured.shape = point.shape;
  const std::string own = fmt::format("{}_{}", backend.name(), experts ? "experts" : "gemm");
  row.measured.kernel = fmt::format("thermoe_{}{}", point.kernel.empty() ? own : point.kernel,
                                    point.cold ? "_cold" : "");
  row.measured.framework = std::string("thermoe ") + kVersion;
  row.measured.device = backend.device();
  row.measured.dtype = point.dtype;
  if (experts) row.measured.distribution = cost::distribution_name(point.shape.load_exponent);
  row.measured.tokens = static_cast<double>(point.tokens);
  row.driver = backend.driver();
  row.threads = backend.threads();
  return row;
}

bool same_point(const SweepRow& a, const SweepRow& b) {
  return a.measured.tokens == b.measured.tokens && a.measured.kernel == b.measured.kernel &&
         a.measured.dtype == b.measured.dtype && a.measured.shape == b.measured.shape;
}

void ClockMedian::add(const SweepRow& row) {
  if (row.clock_mhz && !row.power_capped)
    clocks_.insert(std::upper_bound(clocks_.begin(), clocks_.end(), *row.clock_mhz),
                   *row.clock_mhz);
}

bool ClockMedian::fell(const SweepRow& row) const {
  return row.clock_mhz && !row.power_capped && clocks_.size() >= kLeastClocks &&
         *row.clock_mhz < kHeldBackFrac * clocks_[clocks_.size() / 2];
}

SweepOutcome run_sweep(SweepBackend& backend, const std::vector<SweepPoint>& points, SweepLog& log,
                       const SweepSettings& settings) {
  SweepOutcome outcome;
  ClockMedian clocks;
  for (const SweepRow& row : log.rows()) clocks.add(row);
  std::vector<SweepPoint> open;
  for (const SweepPoint& point : points)
    if (!log.done(row_of(backend, point))) open.push_back(point);
  outcome.resumed = static_cast<int>(points.size() - open.size());
  const double seconds = seconds_each(open, settings.budget_s);
  for (const bool again : {false, true}) {
    for (size_t i = 0; i < open.size(); ++i) {
      if (again && log.done(row_of(backend, open[i]))) continue;
      if (settings.stop && settings.stop()) {
        if (!again) outcome.left = static_cast<int>(open.size() - i);
        return outcome;
      }
      const SweepRow row = measure(backend, open[i], std::max(seconds, open[i].least_s), clocks);
      clocks.add(row);
      log.append(row);
      if (again) continue;
      ++outcome.measured;
      if (settings.step)
        settings.step(static_cast<double>(i + 1) / static_cast<double>(open.size()));
    }
  }
  return outcome;
}

}  // namespace thermoe::app
