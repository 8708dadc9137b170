// What a frontier measures: every policy's settings, with every list of variants, on every text and
// batch, against top-k.
//
// The reference of all rows of one text and batch is top-k in bf16, or in the first variants that
// were asked for where there is no bf16 to compare with.
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
  std::string specification, variants = "bf16";
  double cross_entropy_nats = 0;
  PlanSummary plans;
  double wall_s = 0;
  std::vector<double> window_losses_nats;
};

// A row beside the reference's of the same text and batch.
struct FrontierPoint {
  FrontierRow row;
  PairedDifference loss;
  double distinct_frac = 1;  // of the reference's distinct experts on this text
  double read_frac = 1;      // of the bytes of experts that it reads
  bool reference = false;
};

// A setting's mean over the texts, each text counting the same.
struct FrontierMean {
  int batch = 0;
  FrontierSample sample;
  int64_t tokens = 0;  // of all texts
  double distinct_frac = 0;
  bool reference = false;
};

// At one batch size and one level of bytes read: what every policy's envelope costs.
struct FrontierLevel {
  struct Entry {
    std::string policy;
    bool published = false;
    std::optional<FrontierValue> value;  // of the envelope; none: never reads so little
  };
  int batch = 0;
  double read_frac = 0;
  std::vector<Entry> policies;          // series by name
  std::string best_published;           // empty where none gets there
  std::optional<double> adaptive_frac;  // adaptive's loss, of the best published policy's; each
                                        // with the variants that suit it best
};

// Rows of one text and batch must have one of "topk" with the variants `reference`; throws
// InvalidArgument where it is missing.
std::vector<FrontierPoint> pair_with_top_k(std::span<const FrontierRow> rows,
                                           const std::string& reference = "bf16");

// In the order in which batch and setting first appear.
std::vector<FrontierMean> mean_over_texts(std::span<const FrontierPoint> points);

// Each level at each batch size. The point of top-k with a series' own variants belongs to its
// envelope: each policy can be switched off.
std::vector<FrontierLevel> compare(std::span<const FrontierMean> means,
                                   std::span<const double> levels);

// One envelope, top-k's point included.
FrontierEnvelope envelope_of(std::span<const FrontierMean> means, int batch,
                             const std::string& policy);
// "oea@int8,int4", see series_name.
std::string series_of(const FrontierSample& sample);
// Names of the series in `means` but the reference's, sorted; their batch sizes, rising.
std::vector<std::string> policies_in(std::span<const FrontierMean> means);
std::vector<int> batches_in(std::span<const FrontierMean> means);

}  // namespace thermoe::app
