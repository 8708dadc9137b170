// Measuring a device's kernels over shapes and token counts, one sample after the other.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "cost/measured_table.h"

namespace thermoe::app {

// What one sample is of.
struct SweepPoint {
  cost::KernelShape shape;
  int64_t tokens = 1;
  bool cold = false;           // weights come from memory, not from a cache
  std::string dtype = "bf16";  // of the weights, as the cost model names it
  std::string kernel;          // expert_kernels.h's name; empty: the one that takes all points
  double least_s = 0;          // to repeat it for at least: long enough for power to be read
};

// What a device can do at best; its kernels' rooflines refer to it.
struct MeasuredPeaks {
  double memory_bytes_per_s = 0;  // reading what no cache holds
  double bf16_flops_per_s = 0;    // of a large dense product with bf16 weights
};

struct SweepSample {
  double latency_us = 0;   // median of the repetitions
  double spread_frac = 0;  // their interquartile range over the median
  std::optional<double> power_w, power_limit_w, clock_mhz;
  bool throttled = false;     // the device says that heat held its clock back
  bool power_capped = false;  // that its power limit did: a state, not an error
  double wall_s = 0;          // that taking it took, all in all
};

// What measures: one device, by the kernels that this build has for it.
class SweepBackend {
 public:
  virtual ~SweepBackend() = default;
  virtual std::string name() const = 0;    // "cpu", part of the kernels' names
  virtual std::string device() const = 0;  // as profiles name it
  virtual std::string driver() const = 0;  // with its version
  virtual int threads() const = 0;
  // Takes about `seconds`, longer where few repetitions already do or the point asks for it.
  virtual SweepSample run(const SweepPoint& point, double seconds) = 0;
};

// A sample with what it was measured on and by. measured.framework holds the program's version.
struct SweepRow {
  cost::MeasuredRow measured;
  std::string driver;
  int threads = 0;
  std::optional<double> clock_mhz;
  bool throttled = false, power_capped = false;
  double spread_frac = 0;
  double sample_s = 0;  // wall time that the sample took
};

// The row of a point before it is measured: all but the sample's values.
SweepRow row_of(const SweepBackend& backend, const SweepPoint& point);
// Of one kernel, shape and token count.
bool same_point(const SweepRow& a, const SweepRow& b);

// A clock so far below the sweep's median was held back, whatever the counters say; known once
// there are enough clocks for a median. Clocks that the power limit held back say nothing of heat.
class ClockMedian {
 public:
  void add(const SweepRow& row);
  bool fell(const SweepRow& row) const;

 private:
  std::vector<double> clocks_;  // rising
};

class SweepLog;

struct SweepSettings {
  double budget_s = 180;                       // shared out among the points that are left
  std::function<bool()> stop;                  // asked before each sample; may be empty
  std::function<void(double done_frac)> step;  // after each; may be empty
};

struct SweepOutcome {
  int measured = 0, resumed = 0, left = 0;  // points; left: stopped before they were measured
};

// Measures the points that the log doesn't have, each appended as it is done, those throttled once
// more at the end.
SweepOutcome run_sweep(SweepBackend& backend, const std::vector<SweepPoint>& points, SweepLog& log,
                       const SweepSettings& settings);

}  // namespace thermoe::app
