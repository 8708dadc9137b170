// What all of the module's files share: statuses as Python exceptions, and arrays of any framework
// that are imported (by DLPack or the buffer protocol) without a copy.
#pragma once

#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
// Here for all files: a cast of a type whose caster a file lacks compiles, and fails when it runs.
#include <nanobind/stl/filesystem.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <cstdint>
#include <initializer_list>
#include <memory>
#include <string>

#include "thermoe/c_api.h"

namespace nb = nanobind;

namespace thermoe::python {

// Raises the exception of a status (thermoe.errors), with the words of the last error. With the
// GIL.
void check(thermoe_status status);
// Raises thermoe.InvalidArgument with words of the module's own.
[[noreturn]] void raise_invalid(const std::string& words);

// `value` as a T. Raises TypeError that names what it is of.
template <typename T>
T cast_to(nb::handle value, const char* name) {
  T out{};
  if (nb::try_cast(value, out)) return out;
  PyErr_Clear();
  throw nb::type_error((std::string(name) + ": a value of another type was expected").c_str());
}

// A handle of the C interface.
template <auto kClose>
struct Closer {
  template <typename T>
  void operator()(T* handle) const {
    kClose(handle);
  }
};
template <typename T, auto kClose>
using Handle = std::unique_ptr<T, Closer<kClose>>;

template <typename T>
T sized() {
  T record{};
  record.struct_size = sizeof(T);
  return record;
}

enum class Type : uint8_t { kF32, kBf16, kI32, kU8 };

// A caller's array. Copies share it; the caller's object lives as long as one.
class Array {
 public:
  Array() = default;  // none
  // None gives none. Raises TypeError where `from` is no array or of a type not among `types`,
  // ValueError where it cannot be written to although `writable`, or has not `dims` dimensions.
  Array(nb::handle from, const char* name, std::initializer_list<Type> types, size_t dims,
        bool writable = false);

  explicit operator bool() const { return object_.is_valid(); }
  nb::object object() const { return object_.is_valid() ? object_ : nb::none(); }
  Type type() const { return type_; }
  int64_t rows() const { return static_cast<int64_t>(view_.shape(0)); }
  int64_t size(size_t dim) const { return static_cast<int64_t>(view_.shape(dim)); }
  int64_t stride(size_t dim) const { return view_.stride(dim); }
  bool on_cpu() const;
  bool on_cuda() const { return view_.device_type() == nb::device::cuda::value; }
  int device_id() const { return view_.device_id(); }
  std::string device() const;

  // Null where there is none.
  template <typename T>
  T* data() const {
    return object_.is_valid() ? static_cast<T*>(const_cast<void*>(view_.data())) : nullptr;
  }

  // Each raises ValueError that says what was expected; nothing where there is no array.
  void expect_shape(const char* name, std::initializer_list<int64_t> shape) const;  // -1: any
  void expect_contiguous(const char* name) const;
  void expect_cpu(const char* name) const;
  void expect_cuda(const char* name, int device) const;

 private:
  nb::object object_;
  nb::ndarray<nb::ro> view_;
  Type type_ = Type::kF32;
};

// numpy.empty(shape, dtype).
nb::object numpy_empty(std::initializer_list<int64_t> shape, const char* dtype);

// Each file's part of the module.
void bind_monitor(nb::module_& m);
void bind_costs(nb::module_& m);
void bind_plan(nb::module_& m);
void bind_router(nb::module_& m);
void bind_experts(nb::module_& m);

}  // namespace thermoe::python
