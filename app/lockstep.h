// Scores token sequences that decode in lockstep: the machinery of eval, frontier and the tasks.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <vector>

#include "thermoe/language_model.h"
#include "thermoe/thread_pool.h"

namespace thermoe::app {

// tokens[i] for i >= scored_from (1 or more) are scored, each given all tokens before it.
struct ScoredSequence {
  std::span<const int32_t> tokens;
  int64_t scored_from = 1;
};

struct LockstepRouting {
  RoutingPolicy* policy = nullptr;
  PlanObserver* observer = nullptr;
  std::span<const ExpertLayout> layouts = {};  // as RoutingContext's
  // Prices of every layer's experts from a position on (asked every few positions); null: the
  // policy's own.
  std::function<std::span<const ExpertPrices>(int64_t position)> prices;
};

// What the model said about one token.
struct TokenScore {
  size_t sequence = 0;  // index into the sequences
  int64_t index = 0;    // of the token in its sequence
  float loss_nats = 0;  // -log of its probability
  bool likeliest = false;
};

// `batch` consecutive sequences advance together and route together, position by position; one that
// has ended leaves the group. Batches follow one another in order, so that a policy with a state
// sees them as a decoder would; only the dense work of several positions, or of several short
// batches, is done at once.
//
// Keeps the key-value cache between runs. Not thread-safe.
class Lockstep {
 public:
  // Sequences have at most `max_tokens` tokens. `model` and `pool` must outlive it. Throws
  // InvalidArgument where batch or max_tokens is less than 1.
  Lockstep(LanguageModel& model, ThreadPool& pool, int batch, int64_t max_tokens);

  // Calls `sink` once for every scored token, from the pool's threads, and `progress` (if not null)
  // with the tokens fed so far, from the caller's. A last partial batch is run as it is.
  void run(std::span<const ScoredSequence> sequences, const LockstepRouting& routing,
           const std::function<void(const TokenScore&)>& sink,
           const std::function<void(int64_t tokens_done)>& progress = nullptr);

 private:
  // Adds positions [first, end) of the batch's sequences [begin, begin + count) to the pass.
  void add(std::span<const ScoredSequence> sequences, size_t begin, size_t count, int64_t first,
           int64_t end);
  void flush(std::span<const ScoredSequence> sequences, const LockstepRouting& routing,
             const std::function<void(const TokenScore&)>& sink);

  LanguageModel& model_;
  ThreadPool& pool_;
  size_t batch_, slots_;  // batches that the cache holds
  std::unique_ptr<SequenceCache> cache_;
  std::vector<float> logits_;
  std::vector<int32_t> tokens_, cache_rows_, positions_, logit_rows_;
  std::vector<RowGroup> groups_;
  std::vector<TokenScore> scores_;  // [logit_rows_] what is scored
  int64_t tokens_done_ = 0;
};

}  // namespace thermoe::app
