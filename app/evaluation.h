// Quality and cost of a routing policy on text, as one lockstep decode batch.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "charge.h"
#include "lockstep.h"
#include "plan_statistics.h"
#include "thermoe/language_model.h"
#include "thermoe/tokenizer.h"

namespace thermoe::app {

// The index-th (from 1) of `of` equal contiguous parts of a text's tokens. Parts do not overlap,
// whatever the context that each is cut into.
struct TextPart {
  int64_t index = 1, of = 1;
  // Of "I/N", 1 <= I <= N. Throws InvalidArgument.
  static TextPart parse(const std::string& text);
  // The part's first token and the one after its last, of `tokens`.
  std::pair<int64_t, int64_t> bounds(int64_t tokens) const {
    return {tokens * (index - 1) / of, tokens * index / of};
  }
};

struct EncodedText {
  std::filesystem::path file;
  std::vector<int32_t> tokens;
  std::vector<int64_t> end_bytes;  // [tokens] bytes of the text up to the token's end
};
// Throws IoError where the file cannot be read.
EncodedText read_text(const Tokenizer& tokenizer, const std::filesystem::path& file);

// Tokens of a text cut into contiguous windows that do not overlap: input window[0 : context],
// targets shifted by one (the last target is the next window's first token).
struct TextWindows {
  int64_t context = 0;
  std::vector<int32_t> tokens;        // of all files, one after the other
  std::vector<int64_t> starts;        // first token of each window
  std::vector<int64_t> target_bytes;  // [windows] bytes of text that the window's targets cover

  // Adds the windows of a part of `text`; none where it is too short.
  void add(const EncodedText& text, TextPart part = {});
};

// Windows of a part of every file in turn. Throws IoError where one is too short for one window.
TextWindows read_windows(const Tokenizer& tokenizer, std::span<const std::filesystem::path> files,
                         int64_t context, TextPart part = {});

struct EvaluationSettings {
  int batch = 16;           // windows that advance together
  int64_t max_windows = 0;  // 0: all
  // Prices of every layer's experts at a position of the context; null: zero prices.
  std::function<std::span<const ExpertPrices>(int64_t position)> prices;
  std::function<void(int64_t tokens_done, int64_t tokens)> progress;
};

struct EvaluationResult : PlanSummary {
  int64_t tokens = 0, bytes = 0;
  double cross_entropy_nats = 0;
  double wall_s = 0;
  std::vector<float> losses;  // [tokens] nats, in order of batch, position, window

  double perplexity() const;
  double bits_per_byte() const;
};

// `batch` consecutive windows advance in lockstep and route together, position by position; a last
// partial batch is dropped. Experts run in the precisions that `charge` is of. Throws
// InvalidArgument where not one batch is left.
EvaluationResult evaluate(LanguageModel& model, const TextWindows& windows, RoutingPolicy& policy,
                          const Charge& charge, ThreadPool& pool,
                          const EvaluationSettings& settings);
// The same with a `lockstep` of settings.batch sequences of windows.context + 1 tokens at least.
EvaluationResult evaluate(Lockstep& lockstep, const TextWindows& windows, RoutingPolicy& policy,
                          const Charge& charge, const EvaluationSettings& settings);

// Mean loss of each window, by rising window.
std::vector<double> window_losses(const EvaluationResult& result, int batch, int64_t context);

// Mean difference of the losses of two results on the same windows, and its standard error from the
// spread between windows (tokens of one window are not independent).
struct PairedDifference {
  double mean_nats = 0, standard_error_nats = 0;
};
PairedDifference paired_difference(const EvaluationResult& changed, const EvaluationResult& base,
                                   int batch, int64_t context);
// Of window_losses(). Throws InvalidArgument where they are not as many.
PairedDifference paired_difference(std::span<const double> changed, std::span<const double> base);

}  // namespace thermoe::app
