#include "kernels/cpu/elementwise.h"

#include <algorithm>
#include <cmath>

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/elementwise.cpp"
#include "hwy/foreach_target.h"  // IWYU pragma: keep
#include "hwy/highway.h"
// After highway.h: they need its macros.
#include "hwy/contrib/math/math-inl.h"
#include "kernels/cpu/stored-inl.h"

HWY_BEFORE_NAMESPACE();
namespace thermoe::cpu::HWY_NAMESPACE {

void rms_norm(const float* x, const float* weight, int64_t n, float eps, float* out) {
  const Floats d;
  const int64_t lanes = static_cast<int64_t>(hn::Lanes(d));
  Vector squares_a = hn::Zero(d), squares_b = hn::Zero(d);
  int64_t i = 0;
  for (; i + 2 * lanes <= n; i += 2 * lanes) {
    const Vector a = hn::LoadU(d, x + i), b = hn::LoadU(d, x + i + lanes);
    squares_a = hn::MulAdd(a, a, squares_a);
    squares_b = hn::MulAdd(b, b, squares_b);
  }
  float sum = hn::GetLane(hn::SumOfLanes(d, hn::Add(squares_a, squares_b)));
  for (; i < n; ++i) sum += x[i] * x[i];
  const float scale = 1.0f / std::sqrt(sum / static_cast<float>(n) + eps);
  const Vector scales = hn::Set(d, scale);
  for (i = 0; i + lanes <= n; i += lanes)
    hn::StoreU(hn::Mul(hn::LoadU(d, weight + i), hn::Mul(hn::LoadU(d, x + i), scales)), d, out + i);
  for (; i < n; ++i) out[i] = weight[i] * (x[i] * scale);
}

void softmax(float* x, int64_t n) {
  const Floats d;
  const int64_t lanes = static_cast<int64_t>(hn::Lanes(d));
  const float most = *std::max_element(x, x + n);
  const Vector mosts = hn::Set(d, most);
  float sum = 0.0f;
  int64_t i = 0;
  Vector sums = hn::Zero(d);
  for (; i + lanes <= n; i += lanes) {
    const Vector e = hn::Exp(d, hn::Sub(hn::LoadU(d, x + i), mosts));
    hn::StoreU(e, d, x + i);
    sums = hn::Add(sums, e);
  }
  sum = hn::GetLane(hn::SumOfLanes(d, sums));
  for (; i < n; ++i) {
    x[i] = std::exp(x[i] - most);
    sum += x[i];
  }
  const Vector divisor = hn::Set(d, sum);
  for (i = 0; i + lanes <= n; i += lanes)
    hn::StoreU(hn::Div(hn::LoadU(d, x + i), divisor), d, x + i);
  for (; i < n; ++i) x[i] /= sum;
}

void weighted_sum(const float* const* rows, size_t count, const float* weights, int64_t n,
                  float* out, bool accumulate) {
  const Floats d;
  const int64_t lanes = static_cast<int64_t>(hn::Lanes(d));
  int64_t i = 0;
  for (; i + lanes <= n; i += lanes) {
    Vector sum = accumulate ? hn::LoadU(d, out + i) : hn::Zero(d);
    for (size_t r = 0; r < count; ++r)
      sum = hn::MulAdd(hn::Set(d, weights[r]), hn::LoadU(d, rows[r] + i), sum);
    hn::StoreU(sum, d, out + i);
  }
  for (; i < n; ++i) {
    float sum = accumulate ? out[i] : 0.0f;
    for (size_t r = 0; r < count; ++r) sum += weights[r] * rows[r][i];
    out[i] = sum;
  }
}

template <typename T>
void widen(const T* from, int64_t n, float* out) {
  for (int64_t i = 0; i < n; ++i) {
    if constexpr (std::is_same_v<T, hwy::float16_t>)
      out[i] = hn::GetLane(hn::PromoteTo(hn::CappedTag<float, 1>(),
                                         hn::LoadU(hn::CappedTag<hwy::float16_t, 1>(), from + i)));
    else
      out[i] = hwy::F32FromBF16(from[i]);
  }
}

void widen_row(const WeightView& table, int64_t row, float* out) {
  const int64_t at = row * table.cols;
  switch (table.dtype) {
    case DType::kF32:
      std::copy_n(static_cast<const float*>(table.data) + at, table.cols, out);
      break;
    case DType::kF16:
      widen(static_cast<const hwy::float16_t*>(table.data) + at, table.cols, out);
      break;
    case DType::kBf16:
      widen(static_cast<const hwy::bfloat16_t*>(table.data) + at, table.cols, out);
      break;
  }
}

void rotate(float* x, int64_t heads, int64_t head_dim, const float* cosines, const float* sines) {
  const Floats d;
  const int64_t lanes = static_cast<int64_t>(hn::Lanes(d));
  const int64_t half = head_dim / 2;
  for (int64_t h = 0; h < heads; ++h) {
    float* a = x + h * head_dim;
    float* b = a + half;
    int64_t i = 0;
    for (; i + lanes <= half; i += lanes) {
      const Vector va = hn::LoadU(d, a + i), vb = hn::LoadU(d, b + i);
      const Vector c = hn::LoadU(d, cosines + i), s = hn::LoadU(d, sines + i);
      hn::StoreU(hn::NegMulAdd(vb, s, hn::Mul(va, c)), d, a + i);
      hn::StoreU(hn::MulAdd(va, s, hn::Mul(vb, c)), d, b + i);
    }
    for (; i < half; ++i) {
      const float va = a[i], vb = b[i];
      a[i] = va * cosines[i] - vb * sines[i];
      b[i] = vb * cosines[i] + va * sines[i];
    }
  }
}

}  // namespace thermoe::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace thermoe::cpu {
HWY_EXPORT(rms_norm);
HWY_EXPORT(softmax);
HWY_EXPORT(weighted_sum);
HWY_EXPORT(widen_row);
HWY_EXPORT(rotate);

void rms_norm(const float* x, const float* weight, int64_t n, float eps, float* out) {
  HWY_DYNAMIC_DISPATCH(rms_norm)(x, weight, n, eps, out);
}
void softmax(float* x, int64_t n) { HWY_DYNAMIC_DISPATCH(softmax)(x, n); }
void weighted_sum(std::span<const float* const> rows, const float* weights, int64_t n, float* out,
                  bool accumulate) {
  HWY_DYNAMIC_DISPATCH(weighted_sum)(rows.data(), rows.size(), weights, n, out, accumulate);
}
void widen_row(const WeightView& table, int64_t row, float* out) {
  HWY_DYNAMIC_DISPATCH(widen_row)(table, row, out);
}
void rotate(float* x, int64_t heads, int64_t head_dim, const float* cosines, const float* sines) {
  HWY_DYNAMIC_DISPATCH(rotate)(x, heads, head_dim, cosines, sines);
}
}  // namespace thermoe::cpu
#endif
