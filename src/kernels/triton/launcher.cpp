#include "kernels/triton/launcher.h"

#include <cuda.h>
#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <utility>

#include "kernels/cuda/cuda_resources.h"
#include "thermoe/error.h"

namespace thermoe::triton {
namespace {

constexpr size_t kMostParameters = 32;
constexpr unsigned kDriverVersion = 12000;  // which has all that is asked for

// What is called of the driver, found at run time: the program starts without one.
struct Driver {
  decltype(&cuLibraryLoadData) load = nullptr;
  decltype(&cuLibraryUnload) unload = nullptr;
  decltype(&cuLibraryGetKernel) kernel = nullptr;
  decltype(&cuKernelGetFunction) function = nullptr;
  decltype(&cuKernelSetAttribute) set_attribute = nullptr;
  decltype(&cuLaunchKernel) launch = nullptr;
  decltype(&cuGetErrorString) error_string = nullptr;
};

template <typename Function>
void find(const char* name, Function& function) {
  void* address = nullptr;
  cudaDriverEntryPointQueryResult found{};
  cuda::check(
      cudaGetDriverEntryPointByVersion(name, &address, kDriverVersion, cudaEnableDefault, &found),
      name);
  if (found != cudaDriverEntryPointSuccess || address == nullptr)
    throw CudaError(
        fmt::format("the NVIDIA driver has no {}: install one of CUDA 12.0 or newer to "
                    "run Triton kernels",
                    name));
  function = reinterpret_cast<Function>(address);
}

const Driver& driver() {
  static const Driver found = [] {
    Driver d;
    find("cuLibraryLoadData", d.load);
    find("cuLibraryUnload", d.unload);
    find("cuLibraryGetKernel", d.kernel);
    find("cuKernelGetFunction", d.function);
    find("cuKernelSetAttribute", d.set_attribute);
    find("cuLaunchKernel", d.launch);
    find("cuGetErrorString", d.error_string);
    return d;
  }();
  return found;
}

void check_driver(CUresult status, const CompiledKernel& kernel, const char* what) {
  if (status == CUDA_SUCCESS) return;
  const char* words = nullptr;
  driver().error_string(status, &words);
  throw CudaError(fmt::format("{} the Triton kernel {} (sm_{}): {} ({})", what, kernel.name,
                              kernel.arch, words != nullptr ? words : "unknown error",
                              static_cast<int>(status)));
}

}  // namespace

int current_device() {
  int device = 0;
  cuda::check(cudaGetDevice(&device), "asking for the GPU");
  return device;
}

int device_arch(int device) {
  const auto attribute = [device](cudaDeviceAttr which) {
    int value = 0;
    cuda::check(cudaDeviceGetAttribute(&value, which, device),
                "reading the GPU's compute capability");
    return value;
  };
  return 10 * attribute(cudaDevAttrComputeCapabilityMajor) +
         attribute(cudaDevAttrComputeCapabilityMinor);
}

LoadedKernel::LoadedKernel(const CompiledKernel& kernel, int device) : LoadedKernel() {
  kernel_ = &kernel;
  const Driver& d = driver();
  cuda::check(cudaFree(nullptr), "starting the GPU");  // makes the device's context current
  CUlibrary library = nullptr;
  check_driver(d.load(&library, kernel.cubin.data(), nullptr, nullptr, 0, nullptr, nullptr, 0),
               kernel, "loading");
  library_ = library;
  CUkernel loaded = nullptr;
  CUfunction function = nullptr;
  check_driver(d.kernel(&loaded, library, kernel.entry.c_str()), kernel, "finding");
  check_driver(d.set_attribute(CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES, kernel.shared_bytes,
                               loaded, device),
               kernel, "reserving shared memory for");
  check_driver(d.function(&function, loaded), kernel, "loading");
  function_ = function;
}

LoadedKernel::~LoadedKernel() {
  if (library_ != nullptr) driver().unload(static_cast<CUlibrary>(library_));
}

LoadedKernel::LoadedKernel(LoadedKernel&& other) noexcept
    : kernel_(other.kernel_),
      library_(std::exchange(other.library_, nullptr)),
      function_(std::exchange(other.function_, nullptr)) {}

LoadedKernel& LoadedKernel::operator=(LoadedKernel&& other) noexcept {
  std::swap(kernel_, other.kernel_);
  std::swap(library_, other.library_);
  std::swap(function_, other.function_);
  return *this;
}

cudaError_t LoadedKernel::launch(Grid grid, std::span<void* const> arguments,
                                 cudaStream_t stream) const {
  if (function_ == nullptr || arguments.size() != kernel_->parameters.size() ||
      arguments.size() + kHiddenPointers > kMostParameters)
    return cudaErrorInvalidValue;
  std::array<void*, kMostParameters> all{};
  std::copy(arguments.begin(), arguments.end(), all.begin());
  void* no_scratch = nullptr;
  for (int i = 0; i < kHiddenPointers; ++i)
    all[arguments.size() + static_cast<size_t>(i)] = &no_scratch;
  const CUresult status =
      driver().launch(static_cast<CUfunction>(function_), grid.x, grid.y, grid.z,
                      static_cast<unsigned>(kernel_->warps) * 32, 1, 1,
                      static_cast<unsigned>(kernel_->shared_bytes), stream, all.data(), nullptr);
  // The runtime's errors have the driver's numbers.
  return static_cast<cudaError_t>(status);
}

}  // namespace thermoe::triton
