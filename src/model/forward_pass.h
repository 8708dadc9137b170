// One forward pass over a batch: the buffers and the blocks of a layer.
//
// Activations are f32. Per layer: x += attention(norm(x)), x += ffn(norm(x)); the sum with the
// feed-forward's output is made when x is next normalised. Conventions (where norms, biases, clamps
// and rotations stand) are those of transformers' modeling_{qwen3_moe,olmoe,mixtral}.py.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "experts/expert_tasks.h"
#include "kernels/cpu/rows.h"
#include "model/dense_products.h"
#include "model/kv_cache.h"
#include "model/transformer_weights.h"
#include "thermoe/transformer.h"

namespace thermoe {

// Rows [begin, begin + count) of the order by sequence: some rows of one sequence.
struct SequenceRows {
  int sequence = 0;
  int64_t begin = 0, count = 0;
};

class ForwardPass {
 public:
  ForwardPass(const ModelConfig& config, ThreadPool& pool) : config_(config), pool_(pool) {}

  // Sizes the buffers, embeds the tokens, and prepares rotations and the order by sequence.
  void begin(const TokenBatch& batch, const WeightView& embeddings);
  void attention(const LayerWeights& layer, int number, KvStore& cache);
  void feed_forward(LayerWeights& layer, int number, const RoutingContext& routing);
  void logits(const TransformerWeights& weights, std::span<const int32_t> rows, Matrix out);

 private:
  Matrix sized(std::vector<float>& buffer, int64_t rows, int64_t cols);
  void order_by_sequence();
  void prepare_rotations();
  // normed_ = norm(x), after adding what is pending and `bias` (if not empty) to x.
  void normalise(const std::vector<float>& weight, const std::vector<float>& bias);
  cpu::PackedRows packed(ConstMatrix rows, DType dtype);
  void multiply(const cpu::PackedRows& rows, std::span<const DenseProduct> products);
  void finish_projections(const AttentionWeights& weights, int number, KvStore& cache);
  void attend(int number, const KvStore& cache);
  void dense(const SimpleExpert& expert);
  std::vector<float>& worker_scratch(int worker, size_t floats);

  const ModelConfig& config_;
  ThreadPool& pool_;
  TokenBatch batch_;
  int64_t rows_ = 0;
  Matrix x_, normed_, q_, k_, v_, attended_, ffn_;
  bool pending_ = false;  // ffn_ is still to be added to x_
  std::vector<float> x_data_, normed_data_, q_data_, k_data_, v_data_, attended_data_, ffn_data_;
  std::vector<float> packed_data_, inner_data_;
  std::vector<float> frequencies_, cosines_, sines_;  // [head_dim / 2], [N, head_dim / 2]
  std::vector<int32_t> order_, starts_, identity_;
  std::vector<SequenceRows> sequence_rows_;
  std::vector<ExpertTile> tiles_;
  std::vector<std::vector<float>> scratch_;
};

}  // namespace thermoe
