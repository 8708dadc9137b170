// A model at full load on a GPU for a while, by plain top-k or under the governor, with the GPU's
// own telemetry: what the closed loop is worth on a real card.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "charge.h"
#include "thermoe/cost_kernel_chooser.h"
#include "thermoe/energy_meter.h"
#include "thermoe/governor.h"
#include "thermoe/gpu_system_monitor.h"
#include "thermoe/language_model.h"
#include "thermoe/routing_policies.h"

namespace thermoe::app {

// The same work over and over, of random tokens.
struct LoadSettings {
  bool prefill = false;     // each step reads all prompts; else each is one token of every sequence
  int batch = 16;           // sequences
  int prompt_tokens = 128;  // of each
  int context_tokens = 512;  // decode: where a sequence begins again behind its prompt
  double seconds = 20;       // measured of each phase, after its warm-up
  double warm_up_s = 2;
  double look_s = 5;  // between two looks at the plans, for each of which a GPU waits
  uint64_t seed = 1;
  std::shared_ptr<CostKernelChooser> kernels;  // is told the GPU's state at each tick; may be null
};

struct LoadPhase {
  std::string name;
  bool adaptive = false;                   // else plain top-k
  GovernorLimits limits;                   // of the governor, where adaptive
  double open_price = 0, slope_price = 0;  // fixed ones, where > 0: no governor
  double seconds = 0;                      // measured; 0: the load's
};

// What a tick of the slow loop saw.
struct LoadSample {
  double time_s = 0;   // since the phase began
  double seconds = 0;  // of the tick
  double tokens_per_s = 0, layer_us = 0;
  std::optional<double> power_w, clock_mhz, temperature_c;
  double open_price = 0, slope_price = 0;
  double distinct_experts = 0;  // when the plans were last looked at, mean over layers
};

struct LoadResult {
  LoadPhase phase;
  double seconds = 0;  // warm-up left out, as everywhere below but in samples
  int64_t tokens = 0;
  double layer_us = 0;  // of a step, over its layers: attention and all
  EnergyReading energy;
  std::optional<double> power_w, clock_mhz, temperature_peak_c;
  double power_capped_frac = 0, heat_throttled_frac = 0;  // of the ticks
  double open_price = 0, slope_price = 0;
  double distinct_experts = 0, gate_mass_frac = 1, changed_tokens_frac = 0;
  std::array<double, kPrecisions> opened_frac{};
  std::vector<LoadSample> samples;
  std::vector<int32_t> first_tokens;  // sampled in the first steps
};

class SustainedLoad {
 public:
  // The references must outlive it. Throws InvalidArgument for sizes that don't fit each other.
  SustainedLoad(LanguageModel& model, const Variants& variants, const Charge& charge,
                const PolicyContext& context, const LoadSettings& settings);
  ~SustainedLoad();
  // Telemetry is read by a thread of the monitor's, whose state the loop looks at. `progress` is
  // told how many seconds have passed; may be empty.
  LoadResult run(const LoadPhase& phase, GpuSystemMonitor& monitor,
                 const std::function<void(double seconds)>& progress);

 private:
  class Work;
  struct Loop;
  LanguageModel& model_;
  const Variants& variants_;
  const Charge& charge_;
  PolicyContext context_;
  LoadSettings settings_;
  std::unique_ptr<Work> work_;
};

}  // namespace thermoe::app
