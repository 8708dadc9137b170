// The attention part of ForwardPass.
#include <algorithm>
#include <cmath>

#include "experts/row_tasks.h"
#include "kernels/cpu/attention.h"
#include "kernels/cpu/elementwise.h"
#include "model/forward_pass.h"

namespace thermoe {
namespace {

void add(const std::vector<float>& bias, float* x) {
  for (size_t i = 0; i < bias.size(); ++i) x[i] += bias[i];
}

void normalise_heads(const std::vector<float>& weight, QkNorm kind, int64_t heads, int64_t head_dim,
                     float eps, float* x) {
  if (kind == QkNorm::kWholeProjection) cpu::rms_norm(x, weight.data(), heads * head_dim, eps, x);
  if (kind == QkNorm::kPerHead)
    for (int64_t h = 0; h < heads; ++h)
      cpu::rms_norm(x + h * head_dim, weight.data(), head_dim, eps, x + h * head_dim);
}

void clamp(float limit, int64_t n, float* x) {
  for (int64_t i = 0; i < n; ++i) x[i] = std::clamp(x[i], -limit, limit);
}

}  // namespace

void ForwardPass::attention(const LayerWeights& layer, int number, KvStore& cache) {
  static const std::vector<float> no_bias;
  const AttentionWeights& w = layer.attention;
  normalise(layer.attention_norm, no_bias);
  const DenseProduct projections[] = {{&w.q, q_, false}, {&w.k, k_, false}, {&w.v, v_, false}};
  multiply(packed(normed_, w.q.dtype), projections);
  finish_projections(w, number, cache);
  attend(number, cache);
  const DenseProduct output{&w.o, x_, true};  // its bias is added when x is next normalised
  multiply(packed(attended_, w.o.dtype), {&output, 1});
}

// Biases, norms, clamp, rotation, then keys and values to the cache. OLMoE clamps after the norm.
void ForwardPass::finish_projections(const AttentionWeights& w, int number, KvStore& cache) {
  const int64_t head_dim = config_.head_dim;
  const float eps = static_cast<float>(config_.rms_norm_eps);
  const float limit = static_cast<float>(config_.clip_qkv);
  for_rows(pool_, rows_, 8 * (q_.cols + 2 * k_.cols), [&](int64_t first, int64_t count, int) {
    for (int64_t r = first; r < first + count; ++r) {
      float *q = q_.row(r), *k = k_.row(r), *v = v_.row(r);
      add(w.q_bias, q);
      add(w.k_bias, k);
      add(w.v_bias, v);
      normalise_heads(w.q_norm, config_.qk_norm, config_.heads, head_dim, eps, q);
      normalise_heads(w.k_norm, config_.qk_norm, config_.kv_heads, head_dim, eps, k);
      if (limit > 0) {
        clamp(limit, q_.cols, q);
        clamp(limit, k_.cols, k);
        clamp(limit, v_.cols, v);
      }
      const float* cosines = cosines_.data() + r * (head_dim / 2);
      const float* sines = sines_.data() + r * (head_dim / 2);
      cpu::rotate(q, config_.heads, head_dim, cosines, sines);
      cpu::rotate(k, config_.kv_heads, head_dim, cosines, sines);
      const int sequence = batch_.sequences[static_cast<size_t>(r)];
      for (int h = 0; h < config_.kv_heads; ++h)
        cpu::store_key_value(
            k + h * head_dim, v + h * head_dim, head_dim, batch_.positions[static_cast<size_t>(r)],
            cache.keys_of(number, sequence, h), cache.values_of(number, sequence, h));
    }
  });
}

// One task per KV head and few rows of a sequence.
void ForwardPass::attend(int number, const KvStore& cache) {
  const int group = config_.heads / config_.kv_heads;
  const int tasks = static_cast<int>(sequence_rows_.size()) * config_.kv_heads;
  pool_.run(tasks, [&](int task, int worker) {
    const SequenceRows& some = sequence_rows_[static_cast<size_t>(task / config_.kv_heads)];
    const int head = task % config_.kv_heads;
    cpu::AttentionCall call;
    call.rows = {order_.data() + some.begin, static_cast<size_t>(some.count)};
    call.positions = batch_.positions.data();
    call.queries = q_.data + head * group * config_.head_dim;
    call.out = attended_.data + head * group * config_.head_dim;
    call.row_stride = q_.stride;
    call.group = group;
    call.head_dim = config_.head_dim;
    call.scale = 1.0f / std::sqrt(static_cast<float>(config_.head_dim));
    call.keys = cache.keys_of(number, some.sequence, head);
    call.values = cache.values_of(number, some.sequence, head);
    const size_t floats = cpu::attention_scratch_floats(some.count, group, config_.head_dim);
    cpu::attend(call, worker_scratch(worker, floats).data());
  });
}

}  // namespace thermoe
