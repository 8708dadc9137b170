#include "arrays.h"

#include <algorithm>

namespace thermoe::python {
namespace {

const char* class_of(thermoe_status status) {
  switch (status) {
    case THERMOE_INVALID_ARGUMENT:
      return "InvalidArgument";
    case THERMOE_IO_ERROR:
      return "IoError";
    case THERMOE_CUDA_ERROR:
      return "CudaError";
    case THERMOE_NVML_ERROR:
      return "NvmlError";
    case THERMOE_PROFILE_MISS:
      return "ProfileMiss";
    case THERMOE_NO_CUDA:
      return "NoCuda";
    default:
      return "Error";
  }
}

[[noreturn]] void raise(nb::handle type, const std::string& words) {
  PyErr_SetString(type.ptr(), words.c_str());
  throw nb::python_error();
}
[[noreturn]] void raise_class(const char* name, const std::string& words) {
  raise(nb::module_::import_("thermoe.errors").attr(name), words);
}

const char* name_of(Type type) {
  switch (type) {
    case Type::kF32:
      return "float32";
    case Type::kBf16:
      return "bfloat16";
    case Type::kI32:
      return "int32";
    case Type::kU8:
      return "uint8";
  }
  return "";
}

nb::dlpack::dtype dtype_of(Type type) {
  const auto code = [](nb::dlpack::dtype_code c) { return static_cast<uint8_t>(c); };
  switch (type) {
    case Type::kF32:
      return {code(nb::dlpack::dtype_code::Float), 32, 1};
    case Type::kBf16:
      return {code(nb::dlpack::dtype_code::Bfloat), 16, 1};
    case Type::kI32:
      return {code(nb::dlpack::dtype_code::Int), 32, 1};
    case Type::kU8:
      return {code(nb::dlpack::dtype_code::UInt), 8, 1};
  }
  return {};
}

std::string describe(nb::dlpack::dtype dtype) {
  static constexpr const char* kNames[] = {"int",    "uint",    "float", "handle",
                                           "bfloat", "complex", "bool"};
  const std::string kind = dtype.code < std::size(kNames) ? kNames[dtype.code] : "type";
  return kind + std::to_string(dtype.bits) +
         (dtype.lanes != 1 ? "x" + std::to_string(dtype.lanes) : "");
}

std::string class_name(nb::handle object) {
  return nb::cast<std::string>(nb::handle(object.type()).attr("__name__"));
}

std::string shape_text(size_t dims, const auto& size_of) {
  std::string text = "[";
  for (size_t d = 0; d < dims; ++d) {
    const int64_t size = size_of(d);
    text += (d > 0 ? ", " : "") + (size < 0 ? std::string("any") : std::to_string(size));
  }
  return text + "]";
}

// A CUDA tensor's import must not wait for a stream, which a graph's capture forbids: -1 says so.
nb::object without_waiting(nb::handle from) {
  nb::object device = nb::getattr(from, "__dlpack_device__", nb::none());
  if (device.is_none()) return nb::borrow(from);
  try {
    if (nb::cast<int>(device()[0]) != nb::device::cuda::value) return nb::borrow(from);
    return from.attr("__dlpack__")(nb::arg("stream") = -1);
  } catch (const std::exception&) {  // the cast that follows says what is wrong
    return nb::borrow(from);
  }
}

nb::ndarray<nb::ro> import(nb::handle from, const char* name, bool writable) {
  nb::ndarray<nb::ro> view;
  // NumPy's and the buffers of the CPU have no streams to wait for.
  const bool buffer = PyObject_CheckBuffer(from.ptr()) != 0;
  const nb::object source = buffer ? nb::borrow(from) : without_waiting(from);
  if (writable) {
    nb::ndarray<> mine;
    if (nb::try_cast(source, mine, /*convert=*/false)) return nb::ndarray<nb::ro>(mine);
    if (nb::try_cast(source, view, false))
      throw nb::value_error((std::string(name) + ": the array is read-only").c_str());
  } else if (nb::try_cast(source, view, false)) {
    return view;
  }
  throw nb::type_error((std::string(name) +
                        ": expected a dense array that NumPy, torch, JAX, CuPy or another with "
                        "DLPack exports, got " +
                        class_name(from))
                           .c_str());
}

}  // namespace

void check(thermoe_status status) {
  if (status == THERMOE_OK) return;
  if (status == THERMOE_OUT_OF_MEMORY) raise(PyExc_MemoryError, thermoe_last_error());
  raise_class(class_of(status), thermoe_last_error());
}

void raise_invalid(const std::string& words) { raise_class("InvalidArgument", words); }

Array::Array(nb::handle from, const char* name, std::initializer_list<Type> types, size_t dims,
             bool writable) {
  if (from.is_none()) return;
  view_ = import(from, name, writable);
  const auto found = std::find_if(types.begin(), types.end(),
                                  [&](Type type) { return view_.dtype() == dtype_of(type); });
  if (found == types.end()) {
    std::string wanted;
    for (const Type type : types)
      wanted += (wanted.empty() ? "" : " or ") + std::string(name_of(type));
    throw nb::type_error(
        (std::string(name) + ": expected " + wanted + ", got " + describe(view_.dtype())).c_str());
  }
  type_ = *found;
  if (view_.ndim() != dims)
    throw nb::value_error((std::string(name) + ": expected " + std::to_string(dims) +
                           (dims == 1 ? " dimension" : " dimensions") + ", got " +
                           std::to_string(view_.ndim()))
                              .c_str());
  object_ = nb::borrow(from);
}

bool Array::on_cpu() const {
  return view_.device_type() == nb::device::cpu::value ||
         view_.device_type() == nb::device::cuda_host::value;
}

std::string Array::device() const {
  if (on_cpu()) return "the CPU";
  if (on_cuda()) return "CUDA device " + std::to_string(device_id());
  return "a device of DLPack type " + std::to_string(view_.device_type());
}

void Array::expect_shape(const char* name, std::initializer_list<int64_t> shape) const {
  if (!object_.is_valid()) return;
  bool same = true;
  for (size_t d = 0; d < shape.size(); ++d) {
    const int64_t wanted = shape.begin()[d];
    same &= wanted < 0 || wanted == size(d);
  }
  if (same) return;
  throw nb::value_error((std::string(name) + ": expected the shape " +
                         shape_text(shape.size(), [&](size_t d) { return shape.begin()[d]; }) +
                         ", got " + shape_text(view_.ndim(), [&](size_t d) {
                           return size(d);
                         })).c_str());
}

void Array::expect_contiguous(const char* name) const {
  if (!object_.is_valid()) return;
  int64_t wanted = 1;
  bool same = true;
  for (size_t d = view_.ndim(); d-- > 0;) {
    same &= size(d) <= 1 || stride(d) == wanted;
    wanted *= size(d);
  }
  if (!same)
    throw nb::value_error((std::string(name) +
                           ": expected a contiguous array (numpy.ascontiguousarray, .contiguous())")
                              .c_str());
}

void Array::expect_cpu(const char* name) const {
  if (object_.is_valid() && !on_cpu())
    throw nb::value_error(
        (std::string(name) + ": expected an array on the CPU, got one on " + device()).c_str());
}

void Array::expect_cuda(const char* name, int device_wanted) const {
  if (object_.is_valid() && !(on_cuda() && device_id() == device_wanted))
    throw nb::value_error((std::string(name) + ": expected an array on CUDA device " +
                           std::to_string(device_wanted) + ", got one on " + device())
                              .c_str());
}

nb::object numpy_empty(std::initializer_list<int64_t> shape, const char* dtype) {
  nb::list sizes;
  for (const int64_t size : shape) sizes.append(size);
  return nb::module_::import_("numpy").attr("empty")(nb::tuple(sizes), dtype);
}

}  // namespace thermoe::python
