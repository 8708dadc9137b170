// Owners of CUDA resources, and the one place where a CUDA status becomes an exception. Only for
// files that are compiled with the CUDA code.
#pragma once

#include <cuda_runtime_api.h>

#include <cstddef>
#include <cstdint>
#include <functional>
#include <utility>
#include <vector>

namespace thermoe::cuda {

// Throws CudaError that names `what` where `status` is no success.
void check(cudaError_t status, const char* what);

// Device memory of the current device. Not initialised.
class DeviceBytes {
 public:
  DeviceBytes() = default;
  // Throws CudaError where there isn't as much memory.
  explicit DeviceBytes(size_t bytes);
  ~DeviceBytes();
  DeviceBytes(DeviceBytes&& other) noexcept
      : data_(std::exchange(other.data_, nullptr)), bytes_(std::exchange(other.bytes_, 0)) {}
  DeviceBytes& operator=(DeviceBytes&& other) noexcept {
    std::swap(data_, other.data_);
    std::swap(bytes_, other.bytes_);
    return *this;
  }

  std::byte* data() const { return data_; }
  size_t bytes() const { return bytes_; }
  // Copy from and to the host, all or a part of it; both return once it is done.
  void upload(const void* host, size_t bytes);
  void download(void* host, size_t bytes) const;
  // Every byte to `value`: poison, or zero.
  void fill(uint8_t value);

 private:
  std::byte* data_ = nullptr;
  size_t bytes_ = 0;
};

// Device memory of `size` elements.
template <typename T>
class DeviceArray {
 public:
  DeviceArray() = default;
  explicit DeviceArray(size_t size) : bytes_(size * sizeof(T)) {}
  explicit DeviceArray(const std::vector<T>& host) : DeviceArray(host.size()) {
    bytes_.upload(host.data(), host.size() * sizeof(T));
  }

  T* data() const { return reinterpret_cast<T*>(bytes_.data()); }
  size_t size() const { return bytes_.bytes() / sizeof(T); }
  void fill(uint8_t value) { bytes_.fill(value); }
  std::vector<T> host() const {
    std::vector<T> copy(size());
    bytes_.download(copy.data(), copy.size() * sizeof(T));
    return copy;
  }

 private:
  DeviceBytes bytes_;
};

// A stream of its own.
class Stream {
 public:
  Stream();
  ~Stream();
  Stream(const Stream&) = delete;
  Stream& operator=(const Stream&) = delete;
  cudaStream_t get() const { return stream_; }

 private:
  cudaStream_t stream_ = nullptr;
};

// Captured launches.
class Graph {
 public:
  Graph() = default;
  ~Graph();
  Graph(Graph&& other) noexcept : executable_(std::exchange(other.executable_, nullptr)) {}
  Graph& operator=(Graph&& other) noexcept {
    std::swap(executable_, other.executable_);
    return *this;
  }

  // Records what `enqueue` puts on the stream, in place of what was captured before. Where it
  // throws nothing is captured any more, and the stream can be used as before.
  void capture(cudaStream_t stream, const std::function<void()>& enqueue);
  void launch(cudaStream_t stream) const;

 private:
  cudaGraphExec_t executable_ = nullptr;
};

}  // namespace thermoe::cuda
