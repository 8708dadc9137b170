// Profiles from measured tables: the rooflines' and powers' parameters, and how good they are.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "cost/kernel_profile.h"
#include "cost/measured_table.h"

namespace thermoe::cost {

struct ProfileFitSettings {
  double memory_bytes_per_s = 0, bf16_flops_per_s = 0;  // the device's peaks
  int folds = 4;  // of the held-out errors, by whole shape; 0: none are computed
  std::function<void(double done_frac)> progress;  // may be empty
};

// All rows must be of one device. Several rows of one point: their median. Seconds of CPU time per
// ten thousand rows. Throws InvalidArgument where rows are missing or of several devices.
KernelProfile fit_profile(const std::vector<MeasuredRow>& rows, const ProfileFitSettings& settings);

}  // namespace thermoe::cost
