#include "model/safetensors_writer.h"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <nlohmann/json.hpp>

#include "thermoe/error.h"

namespace thermoe {
namespace {

constexpr size_t kAlignment = 64;

// A file open for writing, closed at the end of its scope.
class OutputFile {
 public:
  explicit OutputFile(const std::filesystem::path& path) : path_(path.string()) {
    descriptor_ = ::open(path_.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
    if (descriptor_ < 0) fail();
  }
  ~OutputFile() {
    if (descriptor_ >= 0) ::close(descriptor_);
  }
  OutputFile(const OutputFile&) = delete;
  OutputFile& operator=(const OutputFile&) = delete;

  void write(const void* data, uint64_t size) {
    const char* at = static_cast<const char*>(data);
    while (size > 0) {
      constexpr uint64_t kMost = uint64_t{1} << 30;  // the system takes no more at once
      const ssize_t written = ::write(descriptor_, at, static_cast<size_t>(std::min(size, kMost)));
      if (written < 0 && errno == EINTR) continue;
      if (written < 0) fail();
      at += written;
      size -= static_cast<uint64_t>(written);
    }
  }

  void finish() {
    if (::fsync(descriptor_) != 0) fail();
    const int closed = ::close(descriptor_);
    descriptor_ = -1;
    if (closed != 0) fail();
  }

 private:
  [[noreturn]] void fail() const {
    throw IoError(path_, std::string("cannot be written (") + std::strerror(errno) +
                             "): check that the folder is writable and the disk has room");
  }

  std::string path_;
  int descriptor_ = -1;
};

std::string header_of(std::span<const TensorToWrite> tensors) {
  nlohmann::ordered_json header = {{"__metadata__", {{"format", "pt"}}}};
  uint64_t at = 0;
  for (const TensorToWrite& tensor : tensors) {
    header[tensor.name] = {{"dtype", tensor.dtype_name},
                           {"shape", tensor.shape},
                           {"data_offsets", {at, at + tensor.size_bytes}}};
    at += tensor.size_bytes;
  }
  std::string text = header.dump();
  const size_t length = sizeof(uint64_t) + text.size();
  text.append((kAlignment - length % kAlignment) % kAlignment, ' ');
  return text;
}

}  // namespace

const char* safetensors_name_of(DType dtype) {
  return dtype == DType::kF32 ? "F32" : dtype == DType::kF16 ? "F16" : "BF16";
}

void write_safetensors(const std::filesystem::path& path, std::span<const TensorToWrite> tensors) {
  const std::string header = header_of(tensors);
  const uint64_t length = header.size();  // little-endian, as safetensors.cpp asserts
  OutputFile file(path);
  file.write(&length, sizeof(length));
  file.write(header.data(), header.size());
  for (const TensorToWrite& tensor : tensors) file.write(tensor.data, tensor.size_bytes);
  file.finish();
}

}  // namespace thermoe
