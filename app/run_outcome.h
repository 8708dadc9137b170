// What `thermoe run` found, and how it is told: a table for people, JSON for programs, an HTML
// report.
#pragma once

#include <nlohmann/json_fwd.hpp>
#include <string>
#include <vector>

#include "evaluation.h"
#include "simulation.h"
#include "svg_plot.h"

namespace thermoe::app {

// Quality at a phase's prices: cross-entropy on held-out text, minus top-k's on the same tokens.
struct PhaseLoss {
  PairedDifference difference;
  double perplexity_frac() const;  // relative change of perplexity
};

// The same opening continued under both policies.
struct TextSample {
  std::string phase, prompt, top_k, thermoe;
};

struct RunOutcome {
  std::string model, variants = "bf16", cost_shape, cost_device, scenario, loss_text;
  int batch = 0, model_experts = 0, shape_experts = 0, shape_layers = 0;
  double latency_target_us = 0, period_s = 0;
  double slowdown_c = 0;
  int64_t loss_tokens = 0;
  double base_cross_entropy_nats = 0;
  RunRecord top_k, thermoe;
  std::vector<PhaseLoss> losses;  // one a phase
  IdentityCheck identity;
  std::vector<TextSample> texts;
  double wall_s = 0;
};

// What is simulated and what is real, in one sentence each.
std::string provenance(const RunOutcome& outcome);
std::string identity_line(const RunOutcome& outcome);
// Two rows a phase, top-k's and thermoe's.
std::string to_table(const RunOutcome& outcome);
nlohmann::ordered_json to_json(const RunOutcome& outcome);
Plot to_plot(const RunOutcome& outcome);
// One self-contained page: nothing is loaded from elsewhere.
std::string to_html(const RunOutcome& outcome);

}  // namespace thermoe::app
