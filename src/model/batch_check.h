// What a model asks of a batch before it runs, wherever it runs.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "thermoe/language_model.h"

namespace thermoe {

// Throws InvalidArgument where sequences or positions are less than 1, or the positions more than
// the model's.
void check_cache_size(const ModelConfig& config, int sequences, int64_t max_positions);

// Throws InvalidArgument as LanguageModel::forward says, but for positions.
void check_batch(const ModelConfig& config, const TokenBatch& batch, const RoutingContext& routing,
                 std::span<const int32_t> logit_rows, Matrix logits);
// The part of it that is about the routing alone.
void check_routing(const ModelConfig& config, const RoutingContext& routing);

// Throws InvalidArgument where a decode call's sizes don't fit each other; `sampled`: how many
// tokens there is room for.
void check_decode(const DecodeRequest& request, size_t sampled);

// Which positions of a cache hold something. `filled` [sequences]: 0 .. filled - 1 do.
class PositionCheck {
 public:
  // Every position before a row's own must be filled or earlier in the rows. Throws
  // InvalidArgument.
  void check(const TokenBatch& batch, std::span<const int64_t> filled, int64_t max_positions);
  // Of the batch last checked: until the pass is through, nothing from a sequence's first row on
  // counts as filled.
  void begin(std::span<int64_t> filled) const;
  void finish(std::span<int64_t> filled) const;

 private:
  std::vector<int64_t> next_, first_;  // [sequences], -1: not in the batch
};

}  // namespace thermoe
