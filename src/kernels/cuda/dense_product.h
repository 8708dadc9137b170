// Dense products on a GPU, by cuBLASLt.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>
#include <memory>

namespace thermoe::cuda {

// y [rows, outputs] = x [rows, inputs] w^T, or added to y. Row-major, contiguous.
struct DenseProductArguments {
  int64_t rows = 0, inputs = 0, outputs = 0;
  const void* x = nullptr;  // bf16
  const void* w = nullptr;  // bf16 [outputs, inputs]
  void* y = nullptr;
  bool f32 = false;  // y is f32, else bf16
  bool add = false;
};

// Chooses an algorithm for each size once, by cuBLASLt's heuristic. Not thread-safe; used on one
// stream at a time (its workspace). The same sizes give the same bits.
class DenseProducts {
 public:
  // Throws CudaError where cuBLASLt can't be used.
  DenseProducts();
  ~DenseProducts();
  // Enqueues; capturable once the size has been asked for before. Throws CudaError.
  void multiply(const DenseProductArguments& arguments, cudaStream_t stream);

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace thermoe::cuda
