#include "lockstep.h"

#include <algorithm>
#include <cmath>

#include "thermoe/error.h"

namespace thermoe::app {
namespace {

// Rows that go through the layers together: enough to fill the dense blocks (more gains nothing,
// bench/results), and not so many that the logits of a batch of hundreds fill the memory.
constexpr int64_t kEnoughRows = 512, kMostRows = 2048;
// Positions of a chunk where prices change with the position, or the batch is large.
constexpr int64_t kChunk = 32;
// Short batches that share a pass: sequences of a dozen tokens, 32 at a time, are enough rows.
constexpr int kCachedSequences = 32;

int64_t chunk_of(int64_t batch, bool priced) {
  const int64_t large = std::clamp<int64_t>(kMostRows / batch, 1, kChunk);
  return priced ? large : std::max(kEnoughRows / batch, large);
}

int checked(int batch, int64_t max_tokens) {
  if (batch < 1) throw InvalidArgument("batch must be 1 or more");
  if (max_tokens < 1) throw InvalidArgument("sequences must have 1 or more tokens");
  return batch;
}

void score(std::span<const float> logits, int32_t target, TokenScore& score) {
  const auto top = std::max_element(logits.begin(), logits.end());
  double sum = 0;
  for (const float logit : logits) sum += std::exp(logit - *top);
  score.loss_nats = static_cast<float>(std::log(sum)) + *top - logits[static_cast<size_t>(target)];
  score.likeliest = top - logits.begin() == target;
}

}  // namespace

Lockstep::Lockstep(LanguageModel& model, ThreadPool& pool, int batch, int64_t max_tokens)
    : model_(model),
      pool_(pool),
      batch_(static_cast<size_t>(checked(batch, max_tokens))),
      slots_(static_cast<size_t>(std::max(1, kCachedSequences / batch))),
      cache_(model.make_cache(static_cast<int>(batch_ * slots_), max_tokens)) {}

void Lockstep::add(std::span<const ScoredSequence> sequences, size_t begin, size_t count,
                   int64_t first, int64_t end) {
  const size_t slot = begin / batch_ % slots_ * batch_;
  for (int64_t position = first; position < end; ++position) {
    const int64_t group = static_cast<int64_t>(tokens_.size());
    for (size_t s = 0; s < count; ++s) {
      const ScoredSequence& sequence = sequences[begin + s];
      if (position + 1 >= static_cast<int64_t>(sequence.tokens.size())) continue;
      if (position + 1 >= sequence.scored_from) {
        logit_rows_.push_back(static_cast<int32_t>(tokens_.size()));
        scores_.push_back({.sequence = begin + s, .index = position + 1});
      }
      tokens_.push_back(sequence.tokens[static_cast<size_t>(position)]);
      cache_rows_.push_back(static_cast<int32_t>(slot + s));
      positions_.push_back(static_cast<int32_t>(position));
    }
    groups_.push_back({group, static_cast<int64_t>(tokens_.size()) - group});
  }
}

void Lockstep::flush(std::span<const ScoredSequence> sequences, const LockstepRouting& routing,
                     const std::function<void(const TokenScore&)>& sink) {
  if (tokens_.empty()) return;
  RoutingContext context{.policy = routing.policy,
                         .prices = {},
                         .layouts = routing.layouts,
                         .observer = routing.observer};
  if (routing.prices) context.prices = routing.prices(positions_.front());
  const int64_t rows = static_cast<int64_t>(logit_rows_.size());
  const int64_t vocabulary = model_.config().vocab_size;
  if (static_cast<int64_t>(logits_.size()) < rows * vocabulary)
    logits_.resize(static_cast<size_t>(rows * vocabulary));
  const Matrix logits(logits_.data(), rows, vocabulary);
  model_.forward({tokens_, cache_rows_, positions_, groups_}, context, *cache_, logit_rows_,
                 logits);
  pool_.run(static_cast<int>(rows), [&](int row, int) {
    TokenScore& token = scores_[static_cast<size_t>(row)];
    score(logits.row_span(row), sequences[token.sequence].tokens[static_cast<size_t>(token.index)],
          token);
    sink(token);
  });
  tokens_done_ += static_cast<int64_t>(tokens_.size());
  tokens_.clear(), cache_rows_.clear(), positions_.clear(), logit_rows_.clear();
  groups_.clear(), scores_.clear();
}

void Lockstep::run(std::span<const ScoredSequence> sequences, const LockstepRouting& routing,
                   const std::function<void(const TokenScore&)>& sink,
                   const std::function<void(int64_t tokens_done)>& progress) {
  const bool priced = static_cast<bool>(routing.prices);
  const int64_t chunk = chunk_of(static_cast<int64_t>(batch_), priced);
  size_t batches_in_pass = 0;
  const auto end_pass = [&] {
    flush(sequences, routing, sink);
    batches_in_pass = 0;
    if (progress) progress(tokens_done_);
  };
  tokens_done_ = 0;
  for (size_t begin = 0; begin < sequences.size(); begin += batch_) {
    const size_t count = std::min(batch_, sequences.size() - begin);
    int64_t positions = 0;
    for (const ScoredSequence& sequence : sequences.subspan(begin, count))
      positions = std::max(positions, static_cast<int64_t>(sequence.tokens.size()) - 1);
    if (batches_in_pass == slots_) end_pass();
    ++batches_in_pass;
    for (int64_t first = 0; first < positions; first += chunk) {
      batches_in_pass = std::max<size_t>(batches_in_pass, 1);
      add(sequences, begin, count, first, std::min(first + chunk, positions));
      if (priced || static_cast<int64_t>(tokens_.size()) >= kEnoughRows) end_pass();
    }
  }
  end_pass();
}

}  // namespace thermoe::app
