// Owners of CUDA resources, and the one place where a CUDA status becomes an exception. Only for
// files that are compiled with the CUDA code.
#pragma once

#include <cuda_runtime_api.h>

#include <cstddef>
#include <cstdint>
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

}  // namespace thermoe::cuda
