#include "kernels/cuda/cuda_resources.h"

#include <fmt/format.h>

#include "thermoe/error.h"

namespace thermoe::cuda {

void check(cudaError_t status, const char* what) {
  if (status != cudaSuccess)
    throw CudaError(
        fmt::format("{}: {} ({})", what, cudaGetErrorString(status), cudaGetErrorName(status)));
}

DeviceBytes::DeviceBytes(size_t bytes) : bytes_(bytes) {
  if (bytes == 0) return;
  void* data = nullptr;
  const cudaError_t status = cudaMalloc(&data, bytes);
  if (status != cudaSuccess) {
    cudaGetLastError();  // or the next launch would report it again
    throw CudaError(
        fmt::format("the GPU has no {} bytes of memory left: {}; use a smaller model or "
                    "batch, or another GPU",
                    bytes, cudaGetErrorString(status)));
  }
  data_ = static_cast<std::byte*>(data);
}

DeviceBytes::~DeviceBytes() { cudaFree(data_); }

void DeviceBytes::upload(const void* host, size_t bytes) {
  check(cudaMemcpy(data_, host, bytes, cudaMemcpyHostToDevice), "copying to the GPU");
}

void DeviceBytes::download(void* host, size_t bytes) const {
  check(cudaMemcpy(host, data_, bytes, cudaMemcpyDeviceToHost), "copying from the GPU");
}

void DeviceBytes::fill(uint8_t value) {
  check(cudaMemset(data_, value, bytes_), "filling GPU memory");
}

}  // namespace thermoe::cuda
