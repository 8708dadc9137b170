// Checkpoint: the tensors of a Hugging Face model directory, memory-mapped.
#pragma once

#include <cstdint>
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
  // Opens config.json and model.safetensors or, where there is none, the shards that
  // model.safetensors.index.json names. Only headers are read; weights are mapped. Throws IoError
  // naming the file and the remedy: a missing or truncated file, a header that lies (overlaps,
  // holes, sizes, bounds), an index that names what a shard lacks, a configuration not supported.
  explicit Checkpoint(const std::filesystem::path& directory);
  ~Checkpoint();
  Checkpoint(Checkpoint&&) noexcept;

  const ModelConfig& config() const;
  const std::filesystem::path& directory() const;
  bool contains(const std::string& name) const;
  std::vector<std::string> names() const;
  // Throws IoError naming the tensor and its file where it is missing, stored in a type other than
  // f32, f16 and bf16, or not aligned to its elements. A tensor that is never asked for may be so.
  TensorView tensor(const std::string& name) const;
  // A rank-2 tensor, checked to be [rows, cols]. Throws IoError with both shapes.
  WeightView weight(const std::string& name, int64_t rows, int64_t cols) const;
  // A rank-1 tensor of `size` elements, converted to f32 (norms and biases only: it copies).
  std::vector<float> vector(const std::string& name, int64_t size) const;
  // A tensor of bytes (U8), checked to have that shape. Throws IoError.
  const uint8_t* bytes(const std::string& name, const std::vector<int64_t>& shape) const;
  // Throws IoError naming file, tensor and element of the first NaN or infinity. Reads every
  // weight, at about the speed of memory.
  void check_finite() const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace thermoe
