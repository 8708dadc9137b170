// The measured kernels of one device: a file of data/profiles, read and written.
#pragma once

#include <filesystem>
#include <map>
#include <string>
#include <vector>

#include "cost/kernel_shape.h"

namespace thermoe::cost {

struct MeasuredCurve {
  KernelShape shape;
  std::vector<double> latency_us;  // along MeasuredKernel::tokens; NaN: not measured
  std::vector<double> power_w;     // the same; empty: none measured
};

// Held-out errors of a kernel's model, absolute and relative, found when the profile was fitted.
struct HeldOutErrors {
  double median_frac = 0, p90_frac = 0;
  bool known = false;  // enough was measured to hold some of it out
};

// Rows below this are too short for the tables' power reading (polled every 100 ms through a
// one-second average; data/profiles/README.md).
inline constexpr double kLeastPowerUs = 300;

struct MeasuredKernel {
  Operation op = Operation::kExperts;
  std::string kernel;        // as its framework names it
  std::string framework;     // "VLLM 0.24.0"
  std::string dtype;         // kernel_shape.h, peaks_of
  double stage_columns = 0;  // KernelPeaks
  RooflineParameters roofline;
  std::vector<double> covariance;        // of the residuals between shapes: kriging.h, parts_of
  double power_limit_w = 0;              // 0: no power measured
  std::vector<double> power_parameters;  // kernel_model.h, kernel_power_w; empty: no power measured
  // Readings farther from kernel_power_w (ratio less 1) say nothing of other shapes: the tables'
  // power is a one-second average that may hold what ran before.
  double power_outlier_frac = 0.1;
  double power_least_us = kLeastPowerUs;  // power of what takes less isn't to be trusted
  HeldOutErrors unseen_shape;             // whole shapes held out
  HeldOutErrors unseen_tokens;            // one token count of a curve held out
  HeldOutErrors unseen_shape_power;
  std::vector<double> tokens;  // rising
  std::vector<MeasuredCurve> curves;
};

struct KernelProfile {
  std::string device;
  std::string power_profile;   // a file beside this one; empty: none
  std::string linear_profile;  // the file beside this one with dense products; empty: this one's
  double memory_bytes_per_s = 0, bf16_flops_per_s = 0;  // peaks that the rooflines refer to
  std::map<std::string, std::string> provenance;
  std::vector<MeasuredKernel> kernels;
};

// Throws IoError naming the file and the field.
KernelProfile read_kernel_profile(const std::filesystem::path& file);
// Replaces `file` in one step: a curve a line, so that versions can be compared. Throws IoError.
void write_kernel_profile(const KernelProfile& profile, const std::filesystem::path& file);

// The kernel to use for `op` and `dtype`: the one named, or where `kernel` is empty the one with
// the most measured curves. Throws ProfileMiss listing what there is.
const MeasuredKernel& find_kernel(const KernelProfile& profile, Operation op,
                                  const std::string& dtype, const std::string& kernel);

}  // namespace thermoe::cost
