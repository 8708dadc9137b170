#include "thermoe/transformer.h"

#include "model/batch_check.h"
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

  const ModelConfig config;
  TransformerWeights weights;
  const std::vector<LayerVariants> variants;  // by layer number
  ForwardPass pass;
  PositionCheck positions;
};

Transformer::Transformer(const Checkpoint& checkpoint, ThreadPool& pool)
    : impl_(std::make_unique<Impl>(checkpoint, pool)) {}
Transformer::~Transformer() = default;

const ModelConfig& Transformer::config() const { return impl_->config; }

const std::vector<LayerVariants>& Transformer::variants() const { return impl_->variants; }

std::unique_ptr<SequenceCache> Transformer::make_cache(int sequences, int64_t max_positions) const {
  return std::make_unique<KvCache>(config(), sequences, max_positions);
}

void Transformer::forward(const TokenBatch& batch, const RoutingContext& routing,
                          SequenceCache& cache, std::span<const int32_t> logit_rows,
                          Matrix logits) {
  Impl& impl = *impl_;
  const auto* own = dynamic_cast<KvCache*>(&cache);
  if (own == nullptr) throw InvalidArgument("the key-value cache is not one of the CPU's");
  KvStore& store = *own->impl_;
  if (store.layers != impl.config.layers || store.kv_heads != impl.config.kv_heads ||
      store.head_dim != impl.config.head_dim)
    throw InvalidArgument("the key-value cache was made for another model's configuration");
  check_batch(impl.config, batch, routing, logit_rows, logits);
  impl.positions.check(batch, store.filled, store.max_positions);
  if (batch.tokens.empty()) return;
  impl.positions.begin(store.filled);
  impl.pass.begin(batch, impl.weights.embeddings);
  for (int number = 0; number < impl.config.layers; ++number) {
    LayerWeights& layer = impl.weights.layers[static_cast<size_t>(number)];
    impl.pass.attention(layer, number, store);
    impl.pass.feed_forward(layer, number, routing);
  }
  impl.pass.logits(impl.weights, logit_rows, logits);
  impl.positions.finish(store.filled);
}

}  // namespace thermoe
