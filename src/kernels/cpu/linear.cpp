#include "kernels/cpu/linear.h"

#include <algorithm>

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/linear.cpp"
#include "hwy/foreach_target.h"  // IWYU pragma: keep
#include "hwy/highway.h"
// After highway.h: it needs its macros.
#include "kernels/cpu/stored-inl.h"

HWY_BEFORE_NAMESPACE();
namespace thermoe::cpu::HWY_NAMESPACE {

constexpr int kMaxRows =
    6;  // with 2 outputs: 12 accumulators, 2 weights, 1 activation of 16 registers
constexpr int64_t kRowBlockBytes = 128 * 1024;  // of the activations, a quarter of a usual L2

// One step of 2 * Lanes elements along K.
template <DType kType, int R, int O>
HWY_INLINE void step(const float* const* x, const typename Stored<kType>::Element* const* w,
                     int64_t at, int64_t w_at, Vector (&sum)[R * O]) {
  const Floats d;
  const int64_t lanes = static_cast<int64_t>(hn::Lanes(d));
  Vector low[O], high[O];
  HWY_UNROLL(16)
  for (int o = 0; o < O; ++o) Stored<kType>::load_pair(w[o] + w_at, low[o], high[o]);
  HWY_UNROLL(16)
  for (int r = 0; r < R; ++r) {
    const Vector x_low = hn::LoadU(d, x[r] + at);
    HWY_UNROLL(16)
    for (int o = 0; o < O; ++o) sum[r * O + o] = hn::MulAdd(x_low, low[o], sum[r * O + o]);
  }
  HWY_UNROLL(16)
  for (int r = 0; r < R; ++r) {
    const Vector x_high = hn::LoadU(d, x[r] + at + lanes);
    HWY_UNROLL(16)
    for (int o = 0; o < O; ++o) sum[r * O + o] = hn::MulAdd(x_high, high[o], sum[r * O + o]);
  }
}

// result[r * O + o] = x[r] . w[o] over cols elements.
template <DType kType, int R, int O>
HWY_INLINE void dot_tile(const float* const* x, const typename Stored<kType>::Element* const* w,
                         int64_t cols, float* result) {
  using Element = typename Stored<kType>::Element;
  const Floats d;
  const int64_t pair = 2 * static_cast<int64_t>(hn::Lanes(d));
  Vector sum[R * O];
  HWY_UNROLL(16)
  for (int i = 0; i < R * O; ++i) sum[i] = hn::Zero(d);
  int64_t c = 0;
  for (; c + pair <= cols; c += pair) step<kType, R, O>(x, w, c, c, sum);
  if (c < cols) {  // the last weights through a copy: nothing past a mapped file's end is read
    Element rest[O][kPackedBlock];
    const Element* rest_rows[O];
    for (int o = 0; o < O; ++o) {
      std::memset(static_cast<void*>(rest[o]), 0, sizeof(rest[o]));
      std::memcpy(static_cast<void*>(rest[o]), static_cast<const void*>(w[o] + c),
                  static_cast<size_t>(cols - c) * sizeof(Element));
      rest_rows[o] = rest[o];
    }
    step<kType, R, O>(x, rest_rows, c, 0, sum);
  }
  HWY_UNROLL(16)
  for (int i = 0; i + 4 <= R * O; i += 4)
    sum_lanes_4(sum[i], sum[i + 1], sum[i + 2], sum[i + 3], result + i);
  if constexpr (R * O % 4 != 0) {
    constexpr int kLast = R * O / 4 * 4;
    const Vector zero = hn::Zero(d);
    float last[4];
    sum_lanes_4(sum[kLast], R * O - kLast > 1 ? sum[R * O - kLast > 1 ? kLast + 1 : kLast] : zero,
                R * O - kLast > 2 ? sum[R * O - kLast > 2 ? kLast + 2 : kLast] : zero, zero, last);
    for (int i = kLast; i < R * O; ++i) result[i] = last[i - kLast];
  }
}

// One tile into y; kOutputs = O outputs, or fewer at the end of the range.
template <DType kType, int R, int O>
HWY_INLINE void run_tile(const PackedRows& x, int64_t row,
                         const typename Stored<kType>::Element* const* w, int64_t cols, int outputs,
                         float* y, int64_t y_stride, bool accumulate) {
  const float* rows[R];
  for (int r = 0; r < R; ++r) rows[r] = x.row(row + r);
  float result[(R * O + 3) / 4 * 4];
  dot_tile<kType, R, O>(rows, w, cols, result);
  for (int r = 0; r < R; ++r) {
    float* to = y + (row + r) * y_stride;
    for (int o = 0; o < outputs; ++o)
      to[o] = accumulate ? to[o] + result[r * O + o] : result[r * O + o];
  }
}

// All outputs for rows [row, row + rows) of x, whose tiles differ by one row at most.
template <DType kType, int O>
void run_block(const PackedRows& x, int64_t row, int64_t rows, const WeightView& weights,
               int64_t first, int64_t count, float* y, int64_t y_stride, bool accumulate) {
  using Element = typename Stored<kType>::Element;
  const Element* base = static_cast<const Element*>(weights.data);
  const int64_t tiles = (rows + kMaxRows - 1) / kMaxRows;
  for (int64_t j = 0; j < count; j += O) {
    const int outputs = static_cast<int>(std::min<int64_t>(O, count - j));
    const Element* w[O];
    for (int o = 0; o < O; ++o) w[o] = base + (first + j + std::min(o, outputs - 1)) * weights.cols;
    float* to = y + first + j;
    for (int64_t tile = 0; tile < tiles; ++tile) {
      const int64_t begin = row + rows * tile / tiles;
      const int64_t size = row + rows * (tile + 1) / tiles - begin;
#define THERMOE_TILE(R)                                                                  \
  case R:                                                                                \
    run_tile<kType, R, O>(x, begin, w, weights.cols, outputs, to, y_stride, accumulate); \
    break
      if constexpr (O == 8) {
        run_tile<kType, 1, O>(x, begin, w, weights.cols, outputs, to, y_stride, accumulate);
      } else if constexpr (O == 4) {
        switch (size) {
          THERMOE_TILE(2);
          THERMOE_TILE(3);
        }
      } else {
        switch (size) {
          THERMOE_TILE(3);
          THERMOE_TILE(4);
          THERMOE_TILE(5);
          THERMOE_TILE(6);
        }
      }
#undef THERMOE_TILE
    }
  }
}

template <DType kType>
void run_linear(const PackedRows& x, const WeightView& w, int64_t first, int64_t count, float* y,
                int64_t y_stride, bool accumulate) {
  const int64_t row_bytes = padded_cols(w.cols) * static_cast<int64_t>(sizeof(float));
  const int64_t most = std::max<int64_t>(2 * kMaxRows, kRowBlockBytes / row_bytes);
  const int64_t blocks = (x.count + most - 1) / most;
  for (int64_t block = 0; block < blocks; ++block) {
    const int64_t row = x.count * block / blocks;
    const int64_t rows = x.count * (block + 1) / blocks - row;
    if (rows == 1)
      run_block<kType, 8>(x, row, rows, w, first, count, y, y_stride, accumulate);
    else if (rows <= 3)
      run_block<kType, 4>(x, row, rows, w, first, count, y, y_stride, accumulate);
    else
      run_block<kType, 2>(x, row, rows, w, first, count, y, y_stride, accumulate);
  }
}

void linear(const PackedRows& x, const WeightView& w, int64_t first, int64_t count, float* y,
            int64_t y_stride, bool accumulate) {
  switch (w.dtype) {
    case DType::kF32:
      return run_linear<DType::kF32>(x, w, first, count, y, y_stride, accumulate);
    case DType::kF16:
      return run_linear<DType::kF16>(x, w, first, count, y, y_stride, accumulate);
    case DType::kBf16:
      return run_linear<DType::kBf16>(x, w, first, count, y, y_stride, accumulate);
  }
}

template <DType kType>
void widen_one(const void* from, int64_t cols, float* to) {
  using Element = typename Stored<kType>::Element;
  const Floats d;
  const int64_t lanes = static_cast<int64_t>(hn::Lanes(d));
  const Element* w = static_cast<const Element*>(from);
  Vector low, high;
  int64_t c = 0;
  for (; c + 2 * lanes <= cols; c += 2 * lanes) {
    Stored<kType>::load_pair(w + c, low, high);
    hn::StoreU(low, d, to + c);
    hn::StoreU(high, d, to + c + lanes);
  }
  std::fill(to + c, to + padded_cols(cols), 0.0f);
  if (c == cols) return;
  Element rest[kPackedBlock];
  std::memset(static_cast<void*>(rest), 0, sizeof(rest));
  std::memcpy(static_cast<void*>(rest), static_cast<const void*>(w + c),
              static_cast<size_t>(cols - c) * sizeof(Element));
  Stored<kType>::load_pair(rest, low, high);
  hn::StoreU(low, d, to + c);
  hn::StoreU(high, d, to + c + lanes);
}

void widen_rows(const WeightView& w, int64_t first, int64_t count, float* to) {
  const int64_t stride = w.cols * static_cast<int64_t>(size_bytes(w.dtype));
  const int64_t padded = padded_cols(w.cols);
  for (int64_t r = 0; r < count; ++r) {
    const void* from = static_cast<const char*>(w.data) + (first + r) * stride;
    switch (w.dtype) {
      case DType::kF32:
        widen_one<DType::kF32>(from, w.cols, to + r * padded);
        break;
      case DType::kF16:
        widen_one<DType::kF16>(from, w.cols, to + r * padded);
        break;
      case DType::kBf16:
        widen_one<DType::kBf16>(from, w.cols, to + r * padded);
        break;
    }
  }
}

}  // namespace thermoe::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace thermoe::cpu {
HWY_EXPORT(linear);
HWY_EXPORT(widen_rows);

void linear(const PackedRows& x, const WeightView& w, int64_t first, int64_t count, float* y,
            int64_t y_stride, bool accumulate) {
  HWY_DYNAMIC_DISPATCH(linear)(x, w, first, count, y, y_stride, accumulate);
}

void widen_rows(const WeightView& w, int64_t first, int64_t count, float* to) {
  HWY_DYNAMIC_DISPATCH(widen_rows)(w, first, count, to);
}
}  // namespace thermoe::cpu
#endif
