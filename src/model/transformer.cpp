#include "thermoe/transformer.h"

#include <fmt/format.h>

#include "experts/row_tasks.h"
#include "model/forward_pass.h"
#include "model/kv_cache.h"
#include "model/transformer_weights.h"
#include "thermoe/error.h"

namespace thermoe {
namespace {

std::vector<LayerVariants> variants_of(const TransformerWeights& weights) {
  std::vector<LayerVariants> variants;
  for (const LayerWeights& layer : weights.layers) variants.push_back(layer.variants);
  return variants;
}

}  // namespace

struct Transformer::Impl {
  Impl(const Checkpoint& checkpoint, ThreadPool& pool)
      : config(checkpoint.config()),
        weights(bind_weights(checkpoint, make_moe_workspace())),
        variants(variants_of(weights)),
        pass(config, pool) {}

  void check(const TokenBatch& batch, const RoutingContext& routing, const KvStore& cache,
             std::span<const int32_t> logit_rows, Matrix logits) const;
  void check_positions(const TokenBatch& batch, const KvStore& cache);

  const ModelConfig config;
  TransformerWeights weights;
  const std::vector<LayerVariants> variants;  // by layer number
  ForwardPass pass;
  std::vector<int64_t> next_position, first_position;  // [sequences] of the batch at hand
};

void Transformer::Impl::check(const TokenBatch& batch, const RoutingContext& routing,
                              const KvStore& cache, std::span<const int32_t> logit_rows,
                              Matrix logits) const {
  const size_t rows = batch.tokens.size();
  if (batch.sequences.size() != rows || batch.positions.size() != rows)
    throw InvalidArgument(fmt::format("a batch of {} tokens has {} sequences and {} positions",
                                      rows, batch.sequences.size(), batch.positions.size()));
  if (cache.layers != config.layers || cache.kv_heads != config.kv_heads ||
      cache.head_dim != config.head_dim)
    throw InvalidArgument("the key-value cache was made for another model's configuration");
  if (routing.policy == nullptr) throw InvalidArgument("routing.policy must not be null");
  if (!routing.prices.empty() && routing.prices.size() != static_cast<size_t>(config.layers))
    throw InvalidArgument(fmt::format("routing.prices holds {} layers' prices, the model has {}",
                                      routing.prices.size(), config.layers));
  if (!routing.layouts.empty() && routing.layouts.size() != static_cast<size_t>(config.layers))
    throw InvalidArgument(fmt::format("routing.layouts holds {} layers' layouts, the model has {}",
                                      routing.layouts.size(), config.layers));
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

// Every position before a row's own must be in the cache or earlier in the rows.
void Transformer::Impl::check_positions(const TokenBatch& batch, const KvStore& cache) {
  next_position.assign(static_cast<size_t>(cache.sequences), -1);
  first_position.assign(static_cast<size_t>(cache.sequences), -1);
  for (size_t r = 0; r < batch.sequences.size(); ++r) {
    const int32_t sequence = batch.sequences[r], position = batch.positions[r];
    if (sequence < 0 || sequence >= cache.sequences)
      throw InvalidArgument(fmt::format("sequence {} of row {} is outside the cache's {}", sequence,
                                        r, cache.sequences));
    if (position < 0 || position >= cache.max_positions)
      throw InvalidArgument(fmt::format("position {} of row {} is outside the cache's {}", position,
                                        r, cache.max_positions));
    int64_t& next = next_position[static_cast<size_t>(sequence)];
    const bool begins = next < 0;
    if (begins ? position > cache.filled[static_cast<size_t>(sequence)] : position != next)
      throw InvalidArgument(fmt::format(
          "row {} is at position {} of sequence {}, which holds {} positions: rows must follow "
          "without a gap",
          r, position, sequence, begins ? cache.filled[static_cast<size_t>(sequence)] : next));
    if (begins) first_position[static_cast<size_t>(sequence)] = position;
    next = position + 1;
  }
}

Transformer::Transformer(const Checkpoint& checkpoint, ThreadPool& pool)
    : impl_(std::make_unique<Impl>(checkpoint, pool)) {}
Transformer::~Transformer() = default;

const ModelConfig& Transformer::config() const { return impl_->config; }

const std::vector<LayerVariants>& Transformer::variants() const { return impl_->variants; }

void Transformer::forward(const TokenBatch& batch, const RoutingContext& routing, KvCache& cache,
                          std::span<const int32_t> logit_rows, Matrix logits) {
  Impl& impl = *impl_;
  KvStore& store = *cache.impl_;
  impl.check(batch, routing, store, logit_rows, logits);
  impl.check_positions(batch, store);
  if (batch.tokens.empty()) return;
  // Until the pass is through, nothing from a sequence's first row on counts as filled.
  for (size_t s = 0; s < store.filled.size(); ++s)
    if (impl.first_position[s] >= 0) store.filled[s] = impl.first_position[s];
  impl.pass.begin(batch, impl.weights.embeddings);
  for (int number = 0; number < impl.config.layers; ++number) {
    LayerWeights& layer = impl.weights.layers[static_cast<size_t>(number)];
    impl.pass.attention(layer, number, store);
    impl.pass.feed_forward(layer, number, routing);
  }
  impl.pass.logits(impl.weights, logit_rows, logits);
  for (size_t s = 0; s < store.filled.size(); ++s)
    if (impl.next_position[s] >= 0) store.filled[s] = impl.next_position[s];
}

}  // namespace thermoe
