// A device's activity between two samples of its hardware counters (NVML's GPM; Hopper and newer).
#pragma once

#include <array>
#include <memory>
#include <optional>

#include "telemetry/nvml_api.h"

namespace thermoe::nvml {

// Lives no longer than the Library that gave `api` and its initialisation. Not thread-safe.
class Gpm {
 public:
  // NVML wants a tenth of a second between two samples.
  static constexpr double kLeastIntervalS = 0.1;

  struct Activity {
    std::optional<double> sm_frac, tensor_frac, dram_frac;
  };

  // Takes the first sample where the device supports it.
  Gpm(const Api& api, Device device, double now_s);
  // NVML's answer to the last call: kErrorNotSupported where there is nothing to be had, ever.
  Return result() const { return result_; }
  // False where it is unsupported or the last sample was taken just now.
  bool ready(double now_s) const;
  // Where it is ready: since the last sample; nothing where that fails, or where there was none.
  // After a failure the next call takes a first sample again.
  std::optional<Activity> read(double now_s);

 private:
  struct Free {
    Return (*free)(GpmSample);
    void operator()(GpmSample sample) const { free(sample); }
  };
  using Sample = std::unique_ptr<GpmSampleOpaque, Free>;

  bool take(Sample& sample);
  std::optional<Activity> between();

  const Api& api_;
  Device device_;
  Return result_ = kErrorNotSupported;
  Sample last_, next_;
  bool has_last_ = false;
  double last_s_ = 0;
  std::unique_ptr<GpmMetricsGet> request_;  // some 20 KiB, of which NVML looks at the first few
};

}  // namespace thermoe::nvml
