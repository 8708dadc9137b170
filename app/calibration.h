// A cost profile from a sweep's samples.
#pragma once

#include <functional>
#include <map>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "cost/kernel_profile.h"
#include "sweep.h"

namespace thermoe::app {

// One kernel's samples.
struct KernelSamples {
  size_t points = 0;
  size_t throttled_rows = 0;    // left out of the fit, but for:
  size_t throttled_points = 0;  // nothing else was measured of them
  double measured_s = 0;        // wall time of the samples
};

struct Calibration {
  cost::KernelProfile profile;
  std::map<std::string, KernelSamples> samples;  // by "kernel type"
};

// Fits all rows but those throttled, and of points of which there is nothing else those too. Rows
// whose clock fell far below the median of all count as throttled, marked or not.
// `progress` may be empty. Throws InvalidArgument where there are no rows.
Calibration calibrate(const std::vector<SweepRow>& rows, const MeasuredPeaks& peaks,
                      const std::function<void(double done_frac)>& progress);

// Kernel, type, curves, points, held-out errors, throttled rows, seconds.
std::string to_table(const Calibration& calibration);
nlohmann::ordered_json to_json(const Calibration& calibration);

}  // namespace thermoe::app
