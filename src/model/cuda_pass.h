// One forward pass over a batch on the device: its buffers and the blocks of a layer, enqueued on
// one stream. The counterpart of forward_pass.h; the same conventions.
#pragma once

#include <functional>
#include <span>
#include <vector>

#include "kernels/cuda/attention.h"
#include "kernels/cuda/dense_product.h"
#include "kernels/cuda/synthetic.h"
#include "kernels/cuda/token_ops.h"
#include "model/cuda_expert_kernels.h"
#include "model/cuda_instances.h"
#include "model/cuda_plans.h"
#include "model/cuda_weights.h"
#include "thermoe/language_model.h"

namespace thermoe {

// Keys and values in device memory.
class CudaCache : public SequenceCache {
 public:
  CudaCache(const ModelConfig& config, int sequences, int64_t max_positions);
  int sequences() const override { return static_cast<int>(filled.size()); }
  int64_t max_positions() const override { return max_positions_; }
  size_t bytes() const override { return keys_.bytes() + values_.bytes(); }
  cuda::CacheView layer(int number) const;
  bool of(const ModelConfig& config) const;

  // Of this cache alone, for as long as the process lives: an address may be another's later.
  uint64_t number() const { return number_; }

  std::vector<int64_t> filled;  // [sequences] positions 0 .. filled - 1 are valid

 private:
  int layers_ = 0, kv_heads_ = 0, head_dim_ = 0;
  int64_t max_positions_ = 0, padded_ = 0;
  uint64_t number_ = 0;
  cuda::DeviceBytes keys_, values_;
};

// The rows of a pass in device memory, and how they are cut up for attention.
class CudaRows {
 public:
  CudaRows() = default;
  explicit CudaRows(int capacity);
  // Copies the batch; `logit_rows` too.
  void write(const TokenBatch& batch, std::span<const int32_t> logit_rows, int rows_of_unit,
             cudaStream_t stream);

  int rows = 0, units = 0, logit_count = 0;
  cuda::DeviceArray<int32_t> tokens, sequences, positions, order, logit_rows;
  cuda::DeviceArray<cuda::AttentionUnit> unit;
};

// Makes the layer's plan, of its logits in `plans`. Returns the slots of a token in it.
using RouteLayer = std::function<int(int layer)>;

class CudaPass {
 public:
  CudaPass(const ModelConfig& config, const CudaWeights& weights);

  static constexpr int kMostRows = 16384;
  // Room for so many rows, and logits of so many of them; true where buffers moved.
  bool reserve(int rows, int logit_rows);
  // Chooses a kernel for each layer's experts in passes of so many rows from now on, and makes room
  // for it; true where a buffer moved.
  bool choose_kernels(int rows, std::span<const CudaInstances> instances) {
    return kernels_.choose(rows, instances);
  }
  CudaExpertKernels& kernels() { return kernels_; }
  const CudaExpertKernels& kernels() const { return kernels_; }
  // Slots of a token that a plan may have: for more than the model's own, which policies on the
  // host may use, only small batches leave the memory.
  int slots() const {
    return rows_ <= kManySlotsRows ? cuda::RoutingLaunch::kMostSlots : config_.top_k;
  }
  // Everything from the rows' tokens to logits [rows.logit_count, vocab_size]; capturable if
  // `route` is.
  void run(const CudaRows& rows, const CudaCache& cache, const CudaPlans& plans,
           std::span<const CudaInstances> instances, const RouteLayer& route, cudaStream_t stream);
  const float* logits() const { return logits_.data(); }
  // Router logits are drawn from these from now on, which must outlive the pass.
  void draw_from(const cuda::RecordedLogits& recorded) { recorded_ = recorded; }

 private:
  static constexpr int kManySlotsRows = 2048;
  void attention(int layer, const CudaRows& rows, const CudaCache& cache, cudaStream_t stream);
  void experts(int layer, const CudaRows& rows, const CudaPlans& plans,
               const CudaInstances& instances, const RouteLayer& route, cudaStream_t stream);
  void score(int layer, const CudaRows& rows, float* logits, cudaStream_t stream);
  void normalise(const CudaFloats& weight, const CudaFloats* bias, const int32_t* from, int rows,
                 bool fragments, cudaStream_t stream);

  const ModelConfig& config_;
  const CudaWeights& weights_;
  cuda::DenseProducts products_;
  CudaExpertKernels kernels_;
  int rows_ = 0, logit_rows_ = 0, multiprocessors_ = 0;
  cuda::RecordedLogits recorded_;  // of a synthetic model
  bool pending_ = false;           // ffn_ is still to be added to x_
  CudaFloats x_, logits_;
  CudaBf16 normed_, fragments_, projected_, queries_, attended_, ffn_;
  cuda::DeviceBytes workspace_;                                // of the experts
  cuda::DeviceArray<int32_t> one_, one_offsets_, one_packed_;  // the plan of a dense layer
  CudaFloats one_weights_;
};

}  // namespace thermoe
