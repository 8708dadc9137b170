// Non-owning views of dense row-major data. A view never outlives what it looks at.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <type_traits>

namespace thermoe {

// A row-major matrix [rows, cols]; consecutive rows are `stride` elements apart (stride >= cols).
template <typename T>
struct MatrixView {
  T* data = nullptr;
  int64_t rows = 0;
  int64_t cols = 0;
  int64_t stride = 0;

  MatrixView() = default;
  MatrixView(T* data_in, int64_t rows_in, int64_t cols_in)
      : MatrixView(data_in, rows_in, cols_in, cols_in) {}
  MatrixView(T* data_in, int64_t rows_in, int64_t cols_in, int64_t stride_in)
      : data(data_in), rows(rows_in), cols(cols_in), stride(stride_in) {}

  // A mutable view reads as a constant one: meant to be implicit.
  template <typename U>
  requires(std::is_same_v<const U, T> && !std::is_same_v<U, T>)
      MatrixView(const MatrixView<U>& other)  // NOLINT(google-explicit-constructor)
      : data(other.data), rows(other.rows), cols(other.cols), stride(other.stride) {}

  T* row(int64_t r) const { return data + r * stride; }
  std::span<T> row_span(int64_t r) const { return {row(r), static_cast<size_t>(cols)}; }
  T& operator()(int64_t r, int64_t c) const { return data[r * stride + c]; }
  // Rows [first, first + count).
  MatrixView rows_from(int64_t first, int64_t count) const {
    return MatrixView(row(first), count, cols, stride);
  }
};

using Matrix = MatrixView<float>;
using ConstMatrix = MatrixView<const float>;

// Element types of stored weights.
enum class DType : uint8_t { kF32, kF16, kBf16 };

constexpr size_t size_bytes(DType dtype) { return dtype == DType::kF32 ? 4 : 2; }
constexpr const char* name_of(DType dtype) {
  return dtype == DType::kF32 ? "f32" : dtype == DType::kF16 ? "f16" : "bf16";
}

// A stored weight [rows (outputs), cols (inputs)], contiguous, in its stored type; usually a window
// of a memory-mapped checkpoint. `data` is aligned to the element at least.
struct WeightView {
  const void* data = nullptr;
  DType dtype = DType::kF32;
  int64_t rows = 0;
  int64_t cols = 0;

  size_t bytes() const { return static_cast<size_t>(rows * cols) * size_bytes(dtype); }
  bool empty() const { return data == nullptr; }
};

}  // namespace thermoe
