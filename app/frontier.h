// What a frontier measures: every policy's settings on every text and batch, against top-k.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "evaluation.h"
#include "frontier_envelope.h"

namespace thermoe::app {

// One setting on one text at one batch size, as measured.
struct FrontierRow {
  std::string text;  // the file's name
  int batch = 0;
  int64_t context = 0, tokens = 0;
  std::string specification;
  double cross_entropy_nats = 0;
  PlanSummary plans;
  double wall_s = 0;
  std::vector<double> window_losses_nats;
};

// A row beside the top-k row of the same text and batch.
struct FrontierPoint {
  FrontierRow row;
  PairedDifference loss;
  double distinct_frac = 1;  // of top-k's distinct experts on this text
};

// A setting's mean over the texts, each text counting the same.
struct FrontierMean {
  int batch = 0;
  FrontierSample sample;
  int64_t tokens = 0;  // of all texts
};

// At one batch size and one level of distinct experts: what every policy's envelope costs.
struct FrontierLevel {
  struct Entry {
    std::string policy;
    bool published = false;
    std::optional<FrontierValue> value;  // of the envelope; none: never reads so few experts
  };
  int batch = 0;
  double distinct_frac = 0;
  std::vector<Entry> policies;          // by name
  std::string best_published;           // empty where none gets there
  std::optional<double> adaptive_frac;  // adaptive's loss, of the best published policy's
};

// Rows of one text and batch must have one of "topk"; throws InvalidArgument where it is missing.
std::vector<FrontierPoint> pair_with_top_k(std::span<const FrontierRow> rows);

// In the order in which batch and setting first appear.
std::vector<FrontierMean> mean_over_texts(std::span<const FrontierPoint> points);

// Each level at each batch size. Top-k's own point belongs to every envelope: each policy can be
// switched off.
std::vector<FrontierLevel> compare(std::span<const FrontierMean> means,
                                   std::span<const double> levels);

// One envelope, top-k's point included.
FrontierEnvelope envelope_of(std::span<const FrontierMean> means, int batch,
                             const std::string& policy);
// Names of the series in `means` but top-k, sorted; their batch sizes, rising.
std::vector<std::string> policies_in(std::span<const FrontierMean> means);
std::vector<int> batches_in(std::span<const FrontierMean> means);

}  // namespace thermoe::app
