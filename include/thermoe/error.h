// Errors of the library. The library throws these, never prints, aborts or exits; the program turns
// one into a single line and exit status 2.
#pragma once

#include <stdexcept>
#include <string>

namespace thermoe {

enum class ErrorKind { kInvalidArgument, kIoError, kCudaError, kNvmlError, kProfileMiss };

// Base of every error thrown by thermoe. what() is one line that names the culprit (file, tensor,
// argument) and says what to do about it.
class Error : public std::runtime_error {
 public:
  Error(ErrorKind kind, const std::string& message) : std::runtime_error(message), kind_(kind) {}
  ErrorKind kind() const noexcept { return kind_; }

 private:
  ErrorKind kind_;
};

// A caller's value is outside the contract: a shape, a range, a NaN.
class InvalidArgument : public Error {
 public:
  explicit InvalidArgument(const std::string& message)
      : Error(ErrorKind::kInvalidArgument, message) {}
};

// A file is missing, unreadable, truncated, or not what it claims to be. what() starts with its
// path.
class IoError : public Error {
 public:
  IoError(const std::string& path, const std::string& problem)
      : Error(ErrorKind::kIoError, path + ": " + problem), path_(path) {}
  const std::string& path() const noexcept { return path_; }

 private:
  std::string path_;
};

// A CUDA call failed. what() names the call and the place.
class CudaError : public Error {
 public:
  explicit CudaError(const std::string& message) : Error(ErrorKind::kCudaError, message) {}
};

// The NVIDIA management library is absent, too old, or refused a call that was needed.
class NvmlError : public Error {
 public:
  explicit NvmlError(const std::string& message) : Error(ErrorKind::kNvmlError, message) {}
};

// No profile covers what was asked (device, shape, type). what() lists what is covered.
class ProfileMiss : public Error {
 public:
  explicit ProfileMiss(const std::string& message) : Error(ErrorKind::kProfileMiss, message) {}
};

}  // namespace thermoe
