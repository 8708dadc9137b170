#include "kernels/cuda/dense_product.h"

#include <cublasLt.h>
#include <fmt/format.h>

#include <map>
#include <tuple>

#include "kernels/cuda/cuda_resources.h"
#include "thermoe/error.h"

namespace thermoe::cuda {
namespace {

constexpr size_t kWorkspaceBytes = size_t{32} << 20;  // as cuBLAS's own on Hopper

void check_lt(cublasStatus_t status, const char* what) {
  if (status != CUBLAS_STATUS_SUCCESS)
    throw CudaError(fmt::format("{}: cuBLASLt's status {}", what, static_cast<int>(status)));
}

// A product's descriptors and algorithm.
struct Planned {
  cublasLtMatmulDesc_t product = nullptr;
  cublasLtMatrixLayout_t w = nullptr, x = nullptr, y = nullptr;
  cublasLtMatmulAlgo_t algorithm{};

  Planned() = default;
  Planned(const Planned&) = delete;
  Planned& operator=(const Planned&) = delete;
  ~Planned() {
    if (product != nullptr) cublasLtMatmulDescDestroy(product);
    for (cublasLtMatrixLayout_t layout : {w, x, y})
      if (layout != nullptr) cublasLtMatrixLayoutDestroy(layout);
  }
};

}  // namespace

struct DenseProducts::Impl {
  using Key = std::tuple<int64_t, int64_t, int64_t, bool, bool>;

  const Planned& plan(const DenseProductArguments& a);

  cublasLtHandle_t handle = nullptr;
  DeviceBytes workspace{kWorkspaceBytes};
  std::map<Key, Planned> plans;
};

// Column by column, y^T [outputs, rows] = w [inputs, outputs]^T x^T [inputs, rows].
const Planned& DenseProducts::Impl::plan(const DenseProductArguments& a) {
  const Key key(a.rows, a.inputs, a.outputs, a.f32, a.add);
  if (const auto known = plans.find(key); known != plans.end()) return known->second;
  Planned& planned = plans[key];
  try {
    check_lt(cublasLtMatmulDescCreate(&planned.product, CUBLAS_COMPUTE_32F, CUDA_R_32F),
             "describing a product");
    const cublasOperation_t transposed = CUBLAS_OP_T;
    check_lt(cublasLtMatmulDescSetAttribute(planned.product, CUBLASLT_MATMUL_DESC_TRANSA,
                                            &transposed, sizeof transposed),
             "describing a product");
    const auto layout = [](cublasLtMatrixLayout_t& to, cudaDataType type, int64_t rows,
                           int64_t cols) {
      check_lt(cublasLtMatrixLayoutCreate(&to, type, static_cast<uint64_t>(rows),
                                          static_cast<uint64_t>(cols), rows),
               "describing a matrix");
    };
    layout(planned.w, CUDA_R_16BF, a.inputs, a.outputs);
    layout(planned.x, CUDA_R_16BF, a.inputs, a.rows);
    layout(planned.y, a.f32 ? CUDA_R_32F : CUDA_R_16BF, a.outputs, a.rows);
    cublasLtMatmulPreference_t preference = nullptr;
    check_lt(cublasLtMatmulPreferenceCreate(&preference), "choosing an algorithm");
    cublasLtMatmulPreferenceSetAttribute(preference, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES,
                                         &kWorkspaceBytes, sizeof kWorkspaceBytes);
    cublasLtMatmulHeuristicResult_t found{};
    int count = 0;
    const cublasStatus_t status =
        cublasLtMatmulAlgoGetHeuristic(handle, planned.product, planned.w, planned.x, planned.y,
                                       planned.y, preference, 1, &found, &count);
    cublasLtMatmulPreferenceDestroy(preference);
    check_lt(status, "choosing an algorithm");
    if (count == 0)
      throw CudaError(fmt::format("cuBLASLt has no algorithm for [{}, {}] by [{}, {}]", a.rows,
                                  a.inputs, a.inputs, a.outputs));
    planned.algorithm = found.algo;
  } catch (...) {
    plans.erase(key);
    throw;
  }
  return planned;
}

DenseProducts::DenseProducts() : impl_(std::make_unique<Impl>()) {
  check_lt(cublasLtCreate(&impl_->handle), "opening cuBLASLt");
}

DenseProducts::~DenseProducts() {
  if (impl_->handle != nullptr) cublasLtDestroy(impl_->handle);
}

void DenseProducts::multiply(const DenseProductArguments& a, cudaStream_t stream) {
  if (a.rows < 1 || a.inputs < 1 || a.outputs < 1)
    throw InvalidArgument("a dense product needs sizes of 1 or more");
  const Planned& planned = impl_->plan(a);
  const float one = 1.0f, beta = a.add ? 1.0f : 0.0f;
  check_lt(cublasLtMatmul(impl_->handle, planned.product, &one, a.w, planned.w, a.x, planned.x,
                          &beta, a.y, planned.y, a.y, planned.y, &planned.algorithm,
                          impl_->workspace.data(), kWorkspaceBytes, stream),
           "a dense product");
}

}  // namespace thermoe::cuda
