// What `thermoe sustain` measured, told: a table, JSON, a CSV of the ticks and plots.
#pragma once

#include <nlohmann/json_fwd.hpp>
#include <string>
#include <vector>

#include "sustained_load.h"
#include "svg_plot.h"

namespace thermoe::app {

struct SustainOutcome {
  std::string model, device, driver, variants, cost_device;
  bool synthetic = false;
  LoadSettings settings;
  int layers = 0, experts = 0;
  std::vector<LoadResult> phases;  // the first is plain top-k
  // Of the phase without a target: tokens that were compared with top-k's, and that differ.
  int64_t compared_tokens = 0, different_tokens = 0;
};

// Fills compared_tokens and different_tokens from the phase of that number.
void compare_tokens(SustainOutcome& outcome, size_t phase);

std::string to_table(const SustainOutcome& outcome);
nlohmann::ordered_json to_json(const SustainOutcome& outcome);
// A line a tick of every phase.
std::string to_csv(const SustainOutcome& outcome);
Plot to_plot(const SustainOutcome& outcome);

}  // namespace thermoe::app
