// Checkpoint: the tensors of a Hugging Face model directory, memory-mapped.
#pragma once

#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "thermoe/model_config.h"
#include "thermoe/views.h"

namespace thermoe {

// A stored tensor of any rank; a window of the mapped file.
struct TensorView {
  const void* data = nullptr;
  DType dtype = DType::kF32;
  std::vector<int64_t> shape;
};

// Immutable; any thread may read it. Views stay valid while the checkpoint lives.
class Checkpoint {
 public:
  // Opens config.json and model.safetensors or the shards of model.safetensors.index.json. Only
  // headers are read; weights are mapped. Throws IoError naming the file and the remedy: missing or
  // truncated shard, a header that lies (overlaps, wrong sizes, bounds), an unsupported dtype.
  explicit Checkpoint(const std::filesystem::path& directory);
  ~Checkpoint();
  Checkpoint(Checkpoint&&) noexcept;

  const ModelConfig& config() const;
  const std::filesystem::path& directory() const;
  bool contains(const std::string& name) const;
  std::vector<std::string> names() const;
  // Throws IoError naming the tensor and the directory where it is missing.
  TensorView tensor(const std::string& name) const;
  // A rank-2 tensor, checked to be [rows, cols]. Throws IoError with both shapes.
  WeightView weight(const std::string& name, int64_t rows, int64_t cols) const;
  // A rank-1 tensor of `size` elements, converted to f32 (norms and biases only: it copies).
  std::vector<float> vector(const std::string& name, int64_t size) const;
  // Throws IoError naming the first tensor that holds a NaN or an infinity. Reads every weight.
  void check_finite() const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace thermoe
