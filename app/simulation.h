// The main job's closed loop: a model decodes, its routing is charged to the digital twin, the
// twin's telemetry drives the governor, and the governor's prices drive the routing. In virtual
// time.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "decoder.h"
#include "engine.h"
#include "scenario.h"
#include "thermoe/digital_twin.h"
#include "thermoe/governor.h"

namespace thermoe::app {

struct SimulationSettings {
  double latency_target_us = 0;  // of an MoE layer of the cost shape
  double period_s = 0;           // a decode step starts no sooner than this after the last
  double temperature_cap_c = 0;
  double max_open_price = 0.25;
  double tick_s = 0.05;  // of the slow loop: 20 Hz, as NVML refreshes
};

// 0 where there are none.
double highest_open_price(const ExpertPrices& prices);

// The governor's prices of every layer: of its layout's instances, or `bf16_prices`, its prices of
// experts in bf16, where it has none.
void spread_prices(const Governor& governor, const CostSurrogate& surrogate,
                   const Variants& variants, const ExpertPrices& bf16_prices,
                   std::vector<ExpertPrices>& prices);

// The slow loop's view at one tick.
struct Sample {
  double time_s = 0, power_w = 0, temperature_c = 0, clock_mhz = 0;
  double open_price = 0, distinct_experts = 0, tokens_per_s = 0;
};

struct PhaseRecord {
  std::string name;
  bool relaxed = false;
  double start_s = 0, duration_s = 0;
  int64_t tokens = 0;
  double energy_j = 0, throttled_s = 0, peak_c = 0;
  double distinct_experts = 0;  // mean over decode steps and layers
  // Instances opened in decode steps in each precision, of all that were.
  std::array<double, kPrecisions> opened_frac{};
  std::vector<ExpertPrices> prices;  // one a tick, of experts in bf16
  double open_price_mean() const;
};

// One round's text, and for how many of its first steps every price was zero.
struct RoundRecord {
  int phase = 0, round = 0;
  int free_steps = 0;
  std::vector<std::vector<int32_t>> texts;
  std::vector<int> prompt_lengths;
};

struct RunRecord {
  std::string policy;
  std::vector<Sample> samples;
  std::vector<PhaseRecord> phases;
  std::vector<RoundRecord> rounds;
};

// What a live view shows.
struct LiveStatus {
  std::string policy, phase;
  double fraction = 0;
  Sample sample;
  bool throttled = false;
};

class Simulation {
 public:
  // The references must outlive it.
  Simulation(Engine& engine, Decoder& decoder, const Scenario& scenario, const TwinParameters& twin,
             const SimulationSettings& settings);
  // Runs the whole scenario on a fresh twin: with prices from the governor, or as plain top-k.
  RunRecord run(bool adaptive, const std::function<void(const LiveStatus&)>& live);

 private:
  struct Loop;
  Engine& engine_;
  Decoder& decoder_;
  const Scenario& scenario_;
  TwinParameters twin_;
  SimulationSettings settings_;
};

// Mean latency of an MoE layer of the cost shape and everything else of a step, under plain top-k
// at the measured clock: from the first steps of round 0.
struct Nominal {
  double layer_latency_us = 0, dense_latency_us = 0;
};
Nominal nominal_latency(Engine& engine, Decoder& decoder);

// Compares the tokens of both runs' rounds as far as they were decoded at zero prices.
struct IdentityCheck {
  int64_t tokens = 0, relaxed_tokens = 0;  // compared, and those of relaxed phases
  int64_t different = 0;
};
IdentityCheck check_identity(const RunRecord& top_k, const RunRecord& adaptive);

}  // namespace thermoe::app
