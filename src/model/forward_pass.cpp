#include "model/forward_pass.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "experts/row_tasks.h"
#include "kernels/cpu/elementwise.h"

namespace thermoe {
namespace {

constexpr int64_t kDenseTileRows = 128;

}  // namespace

// A view of a buffer that grows as needed and keeps its capacity.
Matrix ForwardPass::sized(std::vector<float>& buffer, int64_t rows, int64_t cols) {
  const size_t floats = static_cast<size_t>(rows * cols);
  if (buffer.size() < floats) buffer.resize(floats);
  return Matrix(buffer.data(), rows, cols);
}

std::vector<float>& ForwardPass::worker_scratch(int worker, size_t floats) {
  std::vector<float>& scratch = scratch_[static_cast<size_t>(worker)];
  if (scratch.size() < floats) scratch.resize(floats);
  return scratch;
}

void ForwardPass::begin(const TokenBatch& batch, const WeightView& embeddings) {
  batch_ = batch;
  rows_ = static_cast<int64_t>(batch.tokens.size());
  const int64_t q_size = config_.heads * config_.head_dim;
  const int64_t kv_size = config_.kv_heads * config_.head_dim;
  x_ = sized(x_data_, rows_, config_.hidden_size);
  normed_ = sized(normed_data_, rows_, config_.hidden_size);
  ffn_ = sized(ffn_data_, rows_, config_.hidden_size);
  q_ = sized(q_data_, rows_, q_size);
  attended_ = sized(attended_data_, rows_, q_size);
  k_ = sized(k_data_, rows_, kv_size);
  v_ = sized(v_data_, rows_, kv_size);
  pending_ = false;
  scratch_.resize(static_cast<size_t>(pool_.size()));
  for_rows(pool_, rows_, 8 * config_.hidden_size, [&](int64_t first, int64_t count, int) {
    for (int64_t r = first; r < first + count; ++r)
      cpu::widen_row(embeddings, batch_.tokens[static_cast<size_t>(r)], x_.row(r));
  });
  prepare_rotations();
  order_by_sequence();
}

// cos and sin of position * theta^(-2i / head_dim), the angle rounded to f32 as transformers does.
void ForwardPass::prepare_rotations() {
  const int64_t half = config_.head_dim / 2;
  if (frequencies_.empty()) frequencies_ = rope_frequencies(config_);
  const Matrix cosines = sized(cosines_, rows_, half), sines = sized(sines_, rows_, half);
  for_rows(pool_, rows_, 64 * half, [&](int64_t first, int64_t count, int) {
    for (int64_t r = first; r < first + count; ++r) {
      const int32_t position = batch_.positions[static_cast<size_t>(r)];
      if (r > first && position == batch_.positions[static_cast<size_t>(r - 1)]) {
        std::copy_n(cosines.row(r - 1), half, cosines.row(r));
        std::copy_n(sines.row(r - 1), half, sines.row(r));
        continue;
      }
      for (int64_t i = 0; i < half; ++i) {
        const float angle = static_cast<float>(position) * frequencies_[static_cast<size_t>(i)];
        cosines(r, i) = std::cos(angle);
        sines(r, i) = std::sin(angle);
      }
    }
  });
}

// A stable counting sort of the rows by sequence, cut into tasks of a few rows.
void ForwardPass::order_by_sequence() {
  constexpr int64_t kTaskRows = 16;
  const auto sequences = batch_.sequences;
  const int most = sequences.empty() ? -1 : *std::max_element(sequences.begin(), sequences.end());
  starts_.assign(static_cast<size_t>(most + int64_t{2}), 0);
  for (int32_t s : sequences) ++starts_[static_cast<size_t>(s) + 1];
  std::partial_sum(starts_.begin(), starts_.end(), starts_.begin());
  order_.resize(sequences.size());
  sequence_rows_.clear();
  for (int s = 0; s <= most; ++s) {
    const int64_t end = starts_[static_cast<size_t>(s) + 1];
    for (int64_t at = starts_[static_cast<size_t>(s)]; at < end; at += kTaskRows)
      sequence_rows_.push_back({s, at, std::min(kTaskRows, end - at)});
  }
  for (size_t r = 0; r < sequences.size(); ++r)
    order_[static_cast<size_t>(starts_[static_cast<size_t>(sequences[r])]++)] =
        static_cast<int32_t>(r);
}

void ForwardPass::normalise(const std::vector<float>& weight, const std::vector<float>& bias) {
  const int64_t hidden = config_.hidden_size;
  for_rows(pool_, rows_, 8 * hidden, [&](int64_t first, int64_t count, int) {
    for (int64_t r = first; r < first + count; ++r) {
      float* x = x_.row(r);
      if (pending_)
        for (int64_t c = 0; c < hidden; ++c) x[c] += ffn_(r, c);
      if (!bias.empty())
        for (int64_t c = 0; c < hidden; ++c) x[c] += bias[static_cast<size_t>(c)];
      cpu::rms_norm(x, weight.data(), hidden, static_cast<float>(config_.rms_norm_eps),
                    normed_.row(r));
    }
  });
  pending_ = false;
}

cpu::PackedRows ForwardPass::packed(ConstMatrix rows, DType dtype) {
  const Matrix to = sized(packed_data_, rows.rows, cpu::padded_cols(rows.cols));
  for_rows(pool_, rows.rows, 4 * rows.cols, [&](int64_t first, int64_t count, int) {
    cpu::pack_rows(dtype, rows.rows_from(first, count), to.rows_from(first, count));
  });
  return {to.data, to.stride, rows.rows};
}

void ForwardPass::multiply(const cpu::PackedRows& rows, std::span<const DenseProduct> products) {
  thermoe::multiply(rows, products, scratch_, pool_);
}

void ForwardPass::dense(const SimpleExpert& expert) {
  tiles_.clear();
  for (int64_t first = 0; first < rows_; first += kDenseTileRows)
    tiles_.push_back({{0, Precision::kStored}, first, std::min(kDenseTileRows, rows_ - first)});
  identity_.resize(static_cast<size_t>(rows_));
  std::iota(identity_.begin(), identity_.end(), 0);
  ExpertBuffers buffers;
  buffers.input = packed(normed_, expert.dtype());
  buffers.tokens = identity_.data();
  buffers.inner = sized(inner_data_, rows_, cpu::padded_cols(expert.inter_size()));
  buffers.outputs = ffn_;
  buffers.worker_scratch = scratch_;
  const ExpertWeights weights{expert, std::nullopt};
  run_tiles({&weights, 1}, tiles_, buffers, pool_);
}

void ForwardPass::feed_forward(LayerWeights& layer, int number, const RoutingContext& routing) {
  normalise(layer.ffn_norm, layer.attention.o_bias);
  if (layer.moe)
    layer.moe->forward(
        normed_, batch_.groups, *routing.policy,
        routing.prices.empty() ? nullptr : &routing.prices[static_cast<size_t>(number)], ffn_,
        pool_, routing.observer,
        routing.layouts.empty() ? nullptr : &routing.layouts[static_cast<size_t>(number)]);
  else
    dense(layer.dense.front());
  pending_ = true;
}

void ForwardPass::logits(const TransformerWeights& weights, std::span<const int32_t> rows,
                         Matrix out) {
  if (rows.empty()) return;
  const int64_t hidden = config_.hidden_size, count = static_cast<int64_t>(rows.size());
  for_rows(pool_, count, 8 * hidden, [&](int64_t first, int64_t some, int) {
    for (int64_t i = first; i < first + some; ++i) {
      const int64_t r = rows[static_cast<size_t>(i)];
      float* x = x_.row(r);
      if (pending_)
        for (int64_t c = 0; c < hidden; ++c) x[c] += ffn_(r, c);
      cpu::rms_norm(x, weights.final_norm.data(), hidden, static_cast<float>(config_.rms_norm_eps),
                    normed_.row(i));
    }
  });
  const DenseProduct head{&weights.head, out, false};
  multiply(packed(normed_.rows_from(0, count), weights.head.dtype), {&head, 1});
}

}  // namespace thermoe
