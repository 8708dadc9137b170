// Runs a frontier: every setting on every text and batch, resuming what an earlier run has done.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "engine.h"
#include "frontier.h"
#include "frontier_sweep.h"

namespace thermoe::app {

struct FrontierSettings {
  std::vector<std::filesystem::path> texts;
  std::vector<int> batches;
  int64_t context = 512;        // tokens of a window; the most where it is chosen
  bool choose_context = false;  // as long as one whole batch of windows fits, if shorter
  int64_t max_tokens = 0;       // of a text, at each point; 0: all
  TextPart part;
  // Lists of variants (--variants), each for every setting; empty: one, what the checkpoint holds.
  std::vector<std::string> variants;
};

// What one text gives at one batch size.
struct FrontierCell {
  std::string text;
  size_t text_index = 0, batch_index = 0;  // in the settings
  int batch = 0;
  int64_t context = 0, windows = 0;
};

// The windows of `batch` that a part of `part_tokens` tokens gives. Throws InvalidArgument, naming
// `text`, where it is not one whole batch.
FrontierCell plan_cell(const FrontierSettings& settings, const std::string& text,
                       int64_t part_tokens, int batch);

struct FrontierStudy {
  std::vector<FrontierCell> cells;
  std::vector<FrontierRow> rows;   // by batch, text, variants, setting; with a base its row first
  std::string reference = "bf16";  // the variants of the top-k that all is compared with
  int64_t resumed = 0;             // rows that an earlier run had measured
  double wall_s = 0;
};

// Measures what `log_path` does not hold yet: sweeps[b] at settings.batches[b], with each list of
// variants; a policy that chooses between instances only where there are several. `base`, if not
// null, is the plain checkpoint that the engine's was quantised from: its top-k in bf16 is the
// reference; else top-k in bf16 where that is among the variants, or in the first list. `progress`
// has the tokens done and to do of this run, as often as anything changes. Throws IoError and
// InvalidArgument before any work where the input is not fit.
FrontierStudy run_frontier(Engine& engine, const FrontierSettings& settings,
                           std::span<const std::vector<SweptPolicy>> sweeps,
                           const std::string& log_path,
                           const std::function<void(int64_t done, int64_t total)>& progress,
                           Engine* base = nullptr);

}  // namespace thermoe::app
