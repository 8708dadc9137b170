// What every function of the C interface needs: exceptions become statuses, versioned structs are
// read and written by the size that the caller knows.
#pragma once

#include <fmt/format.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>

#include "thermoe/c_api.h"
#include "thermoe/error.h"

namespace thermoe::c_api {

// Keeps the current exception's words for thermoe_last_error(); its status. Only in a catch block.
thermoe_status status_of_exception() noexcept;
// The same of words of one's own.
thermoe_status fail(thermoe_status status, const char* words) noexcept;

template <typename Body>
thermoe_status guarded(Body&& body) noexcept {
  try {
    body();
    return THERMOE_OK;
  } catch (...) {
    return status_of_exception();
  }
}

// Throws InvalidArgument that names the argument.
void require(const void* pointer, const char* name);
void check_count(int64_t value, int64_t most, const char* name);  // 1 to most
void check_code(int32_t code, int32_t last, const char* name);    // 0 to last, of an enumeration

// No version of a struct is larger.
constexpr size_t kLargestStruct = 4096;
// Throws InvalidArgument unless a version has that size; `least`: the first's.
void check_struct_size(size_t given, size_t least, size_t present, const char* name);
void require_zero(const void* bytes, size_t count, const char* name);

// What the caller gave, over `defaults` for the fields that it lacks. `least`: bytes of the fields
// that every caller has.
template <typename T>
T read_struct(const T* given, size_t least, const char* name, const T& defaults = {}) {
  require(given, name);
  const size_t size = given->struct_size;
  check_struct_size(size, least, sizeof(T), name);
  T known = defaults;
  std::memcpy(&known, given, std::min(size, sizeof(T)));
  if (size > sizeof(T))
    require_zero(reinterpret_cast<const std::byte*>(given) + sizeof(T), size - sizeof(T), name);
  return known;
}

// Writes the fields that the caller knows, zero to those that it alone knows.
template <typename T>
void write_struct(T value, T* out, size_t least, const char* name) {
  require(out, name);
  const size_t size = out->struct_size;
  check_struct_size(size, least, sizeof(T), name);
  value.struct_size = size;
  std::memcpy(out, &value, std::min(size, sizeof(T)));
  if (size > sizeof(T))
    std::memset(reinterpret_cast<std::byte*>(out) + sizeof(T), 0, size - sizeof(T));
}

}  // namespace thermoe::c_api

// Bytes of a struct up to and with a field.
#define THERMOE_THROUGH(type, field) (offsetof(type, field) + sizeof(type::field))
