#include "kernels/cpu/multiply.h"

#include <cblas.h>

#include <algorithm>
#include <mutex>

#include "kernels/cpu/linear.h"

namespace thermoe::cpu {
namespace {

constexpr int64_t kPanelFloats = 64 * 1024;  // 256 KiB: half of a Zen 3 core's L2
constexpr int64_t kLeastPanelRows = 16;      // thinner panels leave sgemm's tiles half empty

int64_t panel_rows(int64_t padded) { return std::max(kLeastPanelRows, kPanelFloats / padded); }

}  // namespace

void use_single_threaded_blas() {
  static std::once_flag once;
  std::call_once(once, [] { openblas_set_num_threads(1); });
}

size_t multiply_scratch_floats(int64_t rows, int64_t cols, bool gathered) {
  if (rows < kGemmRows) return 0;
  const int64_t padded = padded_cols(cols);
  return static_cast<size_t>((panel_rows(padded) + (gathered ? rows : 0)) * padded);
}

void multiply(const PackedRows& x, const WeightView& w, int64_t first, int64_t count, float* y,
              int64_t y_stride, bool accumulate, float* scratch) {
  if (x.count < kGemmRows) {
    linear(x, w, first, count, y, y_stride, accumulate);
  } else {
    widen_and_gemm(x, w, first, count, y, y_stride, accumulate, scratch);
  }
}

void widen_and_gemm(const PackedRows& x, const WeightView& w, int64_t first, int64_t count,
                    float* y, int64_t y_stride, bool accumulate, float* scratch) {
  use_single_threaded_blas();
  const int64_t padded = padded_cols(w.cols);
  const float* rows = x.data;
  int64_t row_stride = x.stride;
  float* panel = scratch;
  if (x.ids != nullptr) {  // sgemm wants the rows at one stride
    float* gathered = scratch + panel_rows(padded) * padded;
    for (int64_t r = 0; r < x.count; ++r) std::copy_n(x.row(r), padded, gathered + r * padded);
    rows = gathered;
    row_stride = padded;
  }
  const bool stored_as_used = w.dtype == DType::kF32 && w.cols == padded;
  for (int64_t at = 0; at < count; at += panel_rows(padded)) {
    const int64_t outputs = std::min(panel_rows(padded), count - at);
    const float* weights = panel;
    if (stored_as_used)
      weights = static_cast<const float*>(w.data) + (first + at) * padded;
    else
      widen_rows(w, first + at, outputs, panel);
    cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasTrans, static_cast<int>(x.count),
                static_cast<int>(outputs), static_cast<int>(padded), 1.0f, rows,
                static_cast<int>(row_stride), weights, static_cast<int>(padded),
                accumulate ? 1.0f : 0.0f, y + first + at, static_cast<int>(y_stride));
  }
}

}  // namespace thermoe::cpu
