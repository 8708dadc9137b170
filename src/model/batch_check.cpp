#include "model/batch_check.h"

#include <fmt/format.h>

#include "experts/row_tasks.h"
#include "thermoe/error.h"

namespace thermoe {

void check_cache_size(const ModelConfig& config, int sequences, int64_t max_positions) {
  if (sequences < 1 || max_positions < 1)
    throw InvalidArgument(
        fmt::format("a key-value cache of {} sequences of {} positions: both must "
                    "be 1 or more",
                    sequences, max_positions));
  if (config.max_positions > 0 && max_positions > config.max_positions)
    throw InvalidArgument(fmt::format("{} positions are more than the model's {}", max_positions,
                                      config.max_positions));
}

void check_routing(const ModelConfig& config, const RoutingContext& routing) {
  if (routing.policy == nullptr) throw InvalidArgument("routing.policy must not be null");
  if (!routing.prices.empty() && routing.prices.size() != static_cast<size_t>(config.layers))
    throw InvalidArgument(fmt::format("routing.prices holds {} layers' prices, the model has {}",
                                      routing.prices.size(), config.layers));
  if (!routing.layouts.empty() && routing.layouts.size() != static_cast<size_t>(config.layers))
    throw InvalidArgument(fmt::format("routing.layouts holds {} layers' layouts, the model has {}",
                                      routing.layouts.size(), config.layers));
}

void check_batch(const ModelConfig& config, const TokenBatch& batch, const RoutingContext& routing,
                 std::span<const int32_t> logit_rows, Matrix logits) {
  const size_t rows = batch.tokens.size();
  if (batch.sequences.size() != rows || batch.positions.size() != rows)
    throw InvalidArgument(fmt::format("a batch of {} tokens has {} sequences and {} positions",
                                      rows, batch.sequences.size(), batch.positions.size()));
  check_routing(config, routing);
  for (size_t r = 0; r < rows; ++r)
    if (batch.tokens[r] < 0 || batch.tokens[r] >= config.vocab_size)
      throw InvalidArgument(fmt::format("token {} of row {} is outside the vocabulary of {}",
                                        batch.tokens[r], r, config.vocab_size));
  check_partition(batch.groups, static_cast<int64_t>(rows));
  int32_t last = -1;
  for (int32_t row : logit_rows) {
    if (row <= last || row >= static_cast<int64_t>(rows))
      throw InvalidArgument(fmt::format(
          "logit_rows must rise within the batch of {} rows: {} follows {}", rows, row, last));
    last = row;
  }
  if (logits.rows != static_cast<int64_t>(logit_rows.size()) ||
      (logits.rows > 0 && logits.cols != config.vocab_size))
    throw InvalidArgument(fmt::format("logits must be [{}, {}], not [{}, {}]", logit_rows.size(),
                                      config.vocab_size, logits.rows, logits.cols));
}

void check_decode(const DecodeRequest& request, size_t sampled) {
  const size_t batch = request.tokens.size();
  if (request.steps < 1 || batch == 0 || request.positions.size() != batch ||
      sampled != batch * static_cast<size_t>(request.steps))
    throw InvalidArgument(
        "decode needs one or more sequences and steps, a position for each token, and room for "
        "every token sampled");
}

void PositionCheck::check(const TokenBatch& batch, std::span<const int64_t> filled,
                          int64_t max_positions) {
  next_.assign(filled.size(), -1);
  first_.assign(filled.size(), -1);
  for (size_t r = 0; r < batch.sequences.size(); ++r) {
    const int32_t sequence = batch.sequences[r], position = batch.positions[r];
    if (sequence < 0 || static_cast<size_t>(sequence) >= filled.size())
      throw InvalidArgument(fmt::format("sequence {} of row {} is outside the cache's {}", sequence,
                                        r, filled.size()));
    if (position < 0 || position >= max_positions)
      throw InvalidArgument(fmt::format("position {} of row {} is outside the cache's {}", position,
                                        r, max_positions));
    const size_t s = static_cast<size_t>(sequence);
    const bool begins = next_[s] < 0;
    if (begins ? position > filled[s] : position != next_[s])
      throw InvalidArgument(fmt::format(
          "row {} is at position {} of sequence {}, which holds {} positions: rows must follow "
          "without a gap",
          r, position, sequence, begins ? filled[s] : next_[s]));
    if (begins) first_[s] = position;
    next_[s] = position + 1;
  }
}

void PositionCheck::begin(std::span<int64_t> filled) const {
  for (size_t s = 0; s < filled.size(); ++s)
    if (first_[s] >= 0) filled[s] = first_[s];
}

void PositionCheck::finish(std::span<int64_t> filled) const {
  for (size_t s = 0; s < filled.size(); ++s)
    if (next_[s] >= 0) filled[s] = next_[s];
}

}  // namespace thermoe
