#include "c_api/boundary.h"

#include <exception>
#include <new>
#include <stdexcept>
#include <string>

#include "thermoe/version.h"

namespace thermoe::c_api {
namespace {

std::string& last_error() {
  thread_local std::string words;
  return words;
}

thermoe_status status_of(ErrorKind kind) {
  switch (kind) {
    case ErrorKind::kInvalidArgument:
      return THERMOE_INVALID_ARGUMENT;
    case ErrorKind::kIoError:
      return THERMOE_IO_ERROR;
    case ErrorKind::kCudaError:
      return THERMOE_CUDA_ERROR;
    case ErrorKind::kNvmlError:
      return THERMOE_NVML_ERROR;
    case ErrorKind::kProfileMiss:
      return THERMOE_PROFILE_MISS;
  }
  return THERMOE_INTERNAL_ERROR;
}

}  // namespace

thermoe_status fail(thermoe_status status, const char* words) noexcept {
  try {
    last_error() = words;
  } catch (const std::exception&) {  // no memory for the words: the status has to do
    last_error().clear();
  }
  return status;
}

thermoe_status status_of_exception() noexcept {
  try {
    throw;
  } catch (const Error& error) {
    return fail(status_of(error.kind()), error.what());
  } catch (const std::bad_alloc&) {
    return fail(THERMOE_OUT_OF_MEMORY, "out of memory: ask for less at once");
  } catch (const std::length_error&) {
    return fail(THERMOE_OUT_OF_MEMORY, "out of memory: ask for less at once");
  } catch (const std::exception& error) {
    return fail(THERMOE_INTERNAL_ERROR, error.what());
  } catch (...) {
    return fail(THERMOE_INTERNAL_ERROR, "an exception of unknown kind; please report it");
  }
}

void require(const void* pointer, const char* name) {
  if (pointer == nullptr) throw InvalidArgument(fmt::format("{} is a null pointer", name));
}

void check_count(int64_t value, int64_t most, const char* name) {
  if (value < 1 || value > most)
    throw InvalidArgument(fmt::format("{} is {}: it must be 1 to {}", name, value, most));
}

void check_code(int32_t code, int32_t last, const char* name) {
  if (code < 0 || code > last)
    throw InvalidArgument(fmt::format("{} is {}: it must be 0 to {}", name, code, last));
}

void check_struct_size(size_t given, size_t least, size_t present, const char* name) {
  if (given < least || given > kLargestStruct || given % alignof(int32_t) != 0)
    throw InvalidArgument(
        fmt::format("{}: struct_size is {}, which is no version's: set it to sizeof the struct, {}",
                    name, given, present));
}

void require_zero(const void* bytes, size_t count, const char* name) {
  const auto* at = static_cast<const unsigned char*>(bytes);
  if (std::any_of(at, at + count, [](unsigned char byte) { return byte != 0; }))
    throw InvalidArgument(fmt::format(
        "{}: a field is set that thermoe {} does not know; link a newer one or leave it zero", name,
        kVersion));
}

}  // namespace thermoe::c_api

const char* thermoe_version(void) { return thermoe::kVersion; }

const char* thermoe_status_name(thermoe_status status) {
  switch (status) {
    case THERMOE_OK:
      return "ok";
    case THERMOE_INVALID_ARGUMENT:
      return "invalid argument";
    case THERMOE_IO_ERROR:
      return "input or output";
    case THERMOE_CUDA_ERROR:
      return "CUDA";
    case THERMOE_NVML_ERROR:
      return "NVML";
    case THERMOE_PROFILE_MISS:
      return "no profile";
    case THERMOE_NO_CUDA:
      return "built without CUDA";
    case THERMOE_OUT_OF_MEMORY:
      return "out of memory";
    case THERMOE_INTERNAL_ERROR:
      return "internal error";
    default:
      return "unknown status";
  }
}

const char* thermoe_last_error(void) { return thermoe::c_api::last_error().c_str(); }
