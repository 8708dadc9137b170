// Quality and cost of a routing policy on text, as one lockstep decode batch.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <span>
#include <string>
#include <vector>

#include "charge.h"
#include "thermoe/tokenizer.h"
#include "thermoe/transformer.h"

namespace thermoe::app {

// Tokens of a text cut into contiguous windows that do not overlap: input window[0 : context],
// targets shifted by one (the last target is the next window's first token).
struct TextWindows {
  int64_t context = 0;
  std::vector<int32_t> tokens;        // of all files, one after the other
  std::vector<int64_t> starts;        // first token of each window
  std::vector<int64_t> target_bytes;  // [windows] bytes of text that the window's targets cover
};

// Windows of every file in turn. Throws IoError where a file is too short for one window.
TextWindows read_windows(const Tokenizer& tokenizer, std::span<const std::filesystem::path> files,
                         int64_t context);

struct EvaluationSettings {
  int batch = 16;           // windows that advance together
  int64_t max_windows = 0;  // 0: all
  // Prices of every layer's experts at a position of the context; null: zero prices.
  std::function<std::span<const ExpertPrices>(int64_t position)> prices;
  std::function<void(int64_t tokens_done, int64_t tokens)> progress;
};

struct EvaluationResult {
  int64_t tokens = 0, bytes = 0;
  double cross_entropy_nats = 0;
  double distinct_experts_mean = 0;  // per layer and batch position
  double expert_bytes_frac = 1;      // read, of what plain top-k would have read
  double gate_mass_frac = 1;
  double predicted_latency_us = 0, predicted_energy_mj = 0;  // mean of an MoE layer
  double certificate_gap_frac_median = 0, certificate_gap_frac_max = 0;
  double wall_s = 0;
  std::vector<float> losses;  // [tokens] nats, in order of batch, position, window

  double perplexity() const;
  double bits_per_byte() const;
};

// `batch` consecutive windows advance in lockstep and route together, position by position; a last
// partial batch is dropped. Throws InvalidArgument where not one batch is left.
EvaluationResult evaluate(Transformer& model, const TextWindows& windows, RoutingPolicy& policy,
                          const Charge& charge, ThreadPool& pool,
                          const EvaluationSettings& settings);

// Mean difference of the losses of two results on the same windows, and its standard error from the
// spread between windows (tokens of one window are not independent).
struct PairedDifference {
  double mean_nats = 0, standard_error_nats = 0;
};
PairedDifference paired_difference(const EvaluationResult& changed, const EvaluationResult& base,
                                   int batch, int64_t context);

}  // namespace thermoe::app
