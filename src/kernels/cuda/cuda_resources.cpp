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

Stream::Stream() { check(cudaStreamCreate(&stream_), "making a stream"); }

Stream::~Stream() { cudaStreamDestroy(stream_); }

Graph::~Graph() {
  if (executable_ != nullptr) cudaGraphExecDestroy(executable_);
}

void Graph::capture(cudaStream_t stream, const std::function<void()>& enqueue) {
  *this = Graph();
  check(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal), "capturing launches");
  cudaGraph_t graph = nullptr;
  try {
    enqueue();
  } catch (...) {
    cudaStreamEndCapture(stream, &graph);
    if (graph != nullptr) cudaGraphDestroy(graph);
    throw;
  }
  check(cudaStreamEndCapture(stream, &graph), "capturing launches");
  const cudaError_t status = cudaGraphInstantiate(&executable_, graph, 0);
  cudaGraphDestroy(graph);
  check(status, "making a graph of launches");
}

void Graph::launch(cudaStream_t stream) const {
  check(cudaGraphLaunch(executable_, stream), "launching a graph");
}

}  // namespace thermoe::cuda
