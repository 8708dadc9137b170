#include "model/cuda_pass.h"

#include <fmt/format.h>

#include <algorithm>
#include <atomic>
#include <numeric>

#include "kernels/cuda/plan_pack.h"
#include "kernels/cuda/prefill_experts.h"
#include "model/batch_check.h"
#include "thermoe/error.h"

namespace thermoe {
namespace {

constexpr int64_t kCacheTile = 32;  // positions; attention.h

template <typename T>
void write(const std::vector<T>& from, const cuda::DeviceArray<T>& to, cudaStream_t stream) {
  if (from.empty()) return;
  cuda::check(cudaMemcpyAsync(to.data(), from.data(), from.size() * sizeof(T),
                              cudaMemcpyHostToDevice, stream),
              "writing a batch");
}

std::vector<int32_t> copy_of(std::span<const int32_t> values) {
  return {values.begin(), values.end()};
}

// The rows by sequence, each sequence's in their order.
std::vector<int32_t> order_by_sequence(std::span<const int32_t> sequences) {
  std::vector<int32_t> order(sequences.size());
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(), [&](int32_t a, int32_t b) {
    return sequences[static_cast<size_t>(a)] < sequences[static_cast<size_t>(b)];
  });
  return order;
}

std::vector<cuda::AttentionUnit> units_of(std::span<const int32_t> sequences,
                                          std::span<const int32_t> order, int most) {
  std::vector<cuda::AttentionUnit> units;
  for (size_t i = 0; i < order.size(); ++i) {
    const int32_t sequence = sequences[static_cast<size_t>(order[i])];
    if (units.empty() || units.back().sequence != sequence || units.back().count == most)
      units.push_back({static_cast<int32_t>(i), 0, sequence});
    ++units.back().count;
  }
  return units;
}

cuda::HeadNorm head_norm(QkNorm norm) {
  if (norm == QkNorm::kPerHead) return cuda::HeadNorm::kPerHead;
  return norm == QkNorm::kWholeProjection ? cuda::HeadNorm::kWholeProjection
                                          : cuda::HeadNorm::kNone;
}

int attribute(cudaDeviceAttr which) {
  int device = 0, value = 0;
  cuda::check(cudaGetDevice(&device), "asking for the GPU");
  cuda::check(cudaDeviceGetAttribute(&value, which, device), "asking for the GPU's size");
  return value;
}

}  // namespace

CudaCache::CudaCache(const ModelConfig& config, int sequences, int64_t max_positions)
    : layers_(config.layers),
      kv_heads_(config.kv_heads),
      head_dim_(static_cast<int>(config.head_dim)),
      max_positions_(max_positions) {
  check_cache_size(config, sequences, max_positions);
  static std::atomic<uint64_t> made{0};
  number_ = ++made;
  filled.resize(static_cast<size_t>(sequences));
  padded_ = (max_positions + kCacheTile - 1) / kCacheTile * kCacheTile;
  const size_t bytes = static_cast<size_t>(layers_) * static_cast<size_t>(sequences) *
                       static_cast<size_t>(kv_heads_) * static_cast<size_t>(padded_) *
                       static_cast<size_t>(head_dim_) * sizeof(__nv_bfloat16);
  keys_ = cuda::DeviceBytes(bytes);
  values_ = cuda::DeviceBytes(bytes);
  keys_.fill(0);  // attention multiplies what it masks
  values_.fill(0);
}

bool CudaCache::of(const ModelConfig& config) const {
  return layers_ == config.layers && kv_heads_ == config.kv_heads && head_dim_ == config.head_dim;
}

cuda::CacheView CudaCache::layer(int number) const {
  const size_t values = static_cast<size_t>(number) * filled.size() *
                        static_cast<size_t>(kv_heads_) * static_cast<size_t>(padded_) *
                        static_cast<size_t>(head_dim_);
  cuda::CacheView view;
  view.keys = reinterpret_cast<__nv_bfloat16*>(keys_.data()) + values;
  view.values = reinterpret_cast<__nv_bfloat16*>(values_.data()) + values;
  view.kv_heads = kv_heads_;
  view.head_dim = head_dim_;
  view.positions = padded_;
  return view;
}

CudaRows::CudaRows(int capacity)
    : tokens(static_cast<size_t>(capacity)),
      sequences(static_cast<size_t>(capacity)),
      positions(static_cast<size_t>(capacity)),
      order(static_cast<size_t>(capacity)),
      logit_rows(static_cast<size_t>(capacity)),
      unit(static_cast<size_t>(capacity)) {}

void CudaRows::write(const TokenBatch& batch, std::span<const int32_t> wanted, int rows_of_unit,
                     cudaStream_t stream) {
  const std::vector<int32_t> ordered = order_by_sequence(batch.sequences);
  const std::vector<cuda::AttentionUnit> cut = units_of(batch.sequences, ordered, rows_of_unit);
  thermoe::write(copy_of(batch.tokens), tokens, stream);
  thermoe::write(copy_of(batch.sequences), sequences, stream);
  thermoe::write(copy_of(batch.positions), positions, stream);
  thermoe::write(ordered, order, stream);
  thermoe::write(cut, unit, stream);
  thermoe::write(copy_of(wanted), logit_rows, stream);
  rows = static_cast<int>(batch.tokens.size());
  units = static_cast<int>(cut.size());
  logit_count = static_cast<int>(wanted.size());
}

CudaPass::CudaPass(const ModelConfig& config, const CudaWeights& weights)
    : config_(config),
      weights_(weights),
      kernels_(config),
      multiprocessors_(attribute(cudaDevAttrMultiProcessorCount)) {}

bool CudaPass::reserve(int rows, int logit_rows) {
  bool moved = false;
  if (logit_rows > logit_rows_) {
    logits_ = CudaFloats(static_cast<size_t>(logit_rows) * static_cast<size_t>(config_.vocab_size));
    logit_rows_ = logit_rows;
    moved = true;
  }
  if (rows <= rows_) return moved;
  const size_t n = static_cast<size_t>(rows), hidden = static_cast<size_t>(config_.hidden_size);
  const size_t q = static_cast<size_t>(config_.heads * config_.head_dim);
  const size_t kv = static_cast<size_t>(config_.kv_heads * config_.head_dim);
  x_ = CudaFloats(n * hidden);
  normed_ = CudaBf16(n * hidden);
  fragments_ = CudaBf16(n * hidden);
  ffn_ = CudaBf16(n * hidden);
  projected_ = CudaBf16(n * (q + 2 * kv));
  queries_ = CudaBf16(n * q);
  attended_ = CudaBf16(n * q);
  const int inter = static_cast<int>(std::max(config_.expert_inter_size, config_.inter_size));
  rows_ = rows;
  workspace_ = cuda::DeviceBytes(
      cuda::prefill_experts_workspace(rows, slots(), static_cast<int>(config_.hidden_size), inter));
  workspace_.fill(0);
  one_ = cuda::DeviceArray<int32_t>(n);
  one_packed_ = cuda::DeviceArray<int32_t>(n);
  one_offsets_ = cuda::DeviceArray<int32_t>(2);
  one_weights_ = CudaFloats(n);
  return true;
}

// normed_ = norm(x_), after adding what is pending and `bias` (if there is one) to x_.
void CudaPass::normalise(const CudaFloats& weight, const CudaFloats* bias, const int32_t* from,
                         int rows, bool fragments, cudaStream_t stream) {
  cuda::NormArguments norm;
  norm.rows = rows;
  norm.hidden = static_cast<int>(config_.hidden_size);
  norm.x = x_.data();
  norm.from = from;
  norm.added = pending_ ? ffn_.data() : nullptr;
  norm.bias = bias != nullptr && bias->size() > 0 ? bias->data() : nullptr;
  norm.weight = weight.data();
  norm.eps = static_cast<float>(config_.rms_norm_eps);
  norm.normed = normed_.data();
  norm.fragments = fragments ? fragments_.data() : nullptr;
  cuda::check(cuda::rms_norm(norm, stream), "a norm");
  pending_ = false;
}

void CudaPass::attention(int layer, const CudaRows& rows, const CudaCache& cache,
                         cudaStream_t stream) {
  const CudaLayerWeights& w = weights_.layers[static_cast<size_t>(layer)];
  const int64_t q = config_.heads * config_.head_dim, kv = config_.kv_heads * config_.head_dim;
  normalise(w.attention_norm, nullptr, nullptr, rows.rows, false, stream);
  products_.multiply({rows.rows, config_.hidden_size, q + 2 * kv, normed_.data(),
                      w.attention.qkv.data(), projected_.data(), false, false},
                     stream);
  cuda::ProjectionArguments finish;
  finish.rows = rows.rows;
  finish.heads = config_.heads;
  finish.projected = projected_.data();
  finish.bias = w.attention.qkv_bias.size() > 0 ? w.attention.qkv_bias.data() : nullptr;
  finish.norm = head_norm(config_.qk_norm);
  finish.q_norm = w.attention.q_norm.data();
  finish.k_norm = w.attention.k_norm.data();
  finish.eps = static_cast<float>(config_.rms_norm_eps);
  finish.clip = static_cast<float>(config_.clip_qkv);
  finish.frequencies = weights_.frequencies.data();
  finish.sequences = rows.sequences.data();
  finish.positions = rows.positions.data();
  finish.queries = queries_.data();
  finish.cache = cache.layer(layer);
  cuda::check(cuda::finish_projections(finish, stream), "rotating queries and keys");
  cuda::AttentionArguments attend;
  attend.heads = config_.heads;
  attend.units = rows.units;
  attend.unit = rows.unit.data();
  attend.order = rows.order.data();
  attend.positions = rows.positions.data();
  attend.queries = queries_.data();
  attend.cache = finish.cache;
  attend.out = attended_.data();
  // Fewer warps than would keep the GPU busy: let eight share a unit's keys.
  attend.split = rows.units * config_.kv_heads < 8 * multiprocessors_;
  cuda::check(cuda::attend(attend, stream), "attention");
  products_.multiply({rows.rows, q, config_.hidden_size, attended_.data(), w.attention.o.data(),
                      x_.data(), true, true},
                     stream);
}

void CudaPass::score(int layer, const CudaRows& rows, float* logits, cudaStream_t stream) {
  const CudaLayerWeights& w = weights_.layers[static_cast<size_t>(layer)];
  products_.multiply({rows.rows, config_.hidden_size, config_.experts, normed_.data(),
                      w.gate.data(), logits, true, false},
                     stream);
  if (recorded_.table == nullptr) return;
  cuda::check(cuda::draw_logits(recorded_, layer, rows.tokens.data(), rows.positions.data(),
                                rows.rows, config_.experts, logits, stream),
              "drawing router logits");
}

void CudaPass::experts(int layer, const CudaRows& batch, const CudaPlans& plans,
                       const CudaInstances& instances, const RouteLayer& route,
                       cudaStream_t stream) {
  const CudaLayerWeights& w = weights_.layers[static_cast<size_t>(layer)];
  const int rows = batch.rows;
  normalise(w.ffn_norm, &w.attention.o_bias, nullptr, rows, true, stream);
  cuda::DecodeExpertsArguments run;
  run.tokens = rows;
  run.hidden = static_cast<int>(config_.hidden_size);
  run.inter = w.experts.inter;
  run.instances = instances.count();
  run.experts = instances.table();
  run.x = fragments_.data();
  run.out = ffn_.data();
  run.workspace = workspace_.data();
  if (config_.sparse[static_cast<size_t>(layer)]) {
    const CudaLayerPlan to = plans.layer(layer);
    score(layer, batch, to.logits, stream);
    run.k = route(layer);
    run.plan_instances = to.plan.instances;
    run.plan_weights = to.plan.weights;
    run.offsets = to.plan.offsets;
    run.packed = to.plan.packed;
  } else {
    cuda::check(cuda::plan_of_one(rows, one_.data(), one_weights_.data(), one_offsets_.data(),
                                  one_packed_.data(), stream),
                "a dense layer's plan");
    run.k = 1;
    run.plan_instances = one_.data();
    run.plan_weights = one_weights_.data();
    run.offsets = one_offsets_.data();
    run.packed = one_packed_.data();
  }
  kernels_.run(layer, run, instances, stream);
  pending_ = true;
}

void CudaPass::run(const CudaRows& rows, const CudaCache& cache, const CudaPlans& plans,
                   std::span<const CudaInstances> instances, const RouteLayer& route,
                   cudaStream_t stream) {
  pending_ = false;
  cuda::check(cuda::embed(weights_.embeddings.data(), rows.tokens.data(), rows.rows,
                          static_cast<int>(config_.hidden_size), x_.data(), stream),
              "embedding");
  for (int layer = 0; layer < config_.layers; ++layer) {
    attention(layer, rows, cache, stream);
    experts(layer, rows, plans, instances[static_cast<size_t>(layer)], route, stream);
  }
  if (rows.logit_count == 0) return;
  normalise(weights_.final_norm, nullptr, rows.logit_rows.data(), rows.logit_count, false, stream);
  products_.multiply({rows.logit_count, config_.hidden_size, config_.vocab_size, normed_.data(),
                      weights_.head(), logits_.data(), true, false},
                     stream);
}

}  // namespace thermoe
