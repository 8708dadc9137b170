#include "kernels/cpu/rows.h"

#include <algorithm>

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/rows.cpp"
#include "hwy/foreach_target.h"  // IWYU pragma: keep
#include "hwy/highway.h"
// After highway.h: they need its macros.
#include "kernels/cpu/stored-inl.h"
#include "kernels/cpu/swiglu-inl.h"

HWY_BEFORE_NAMESPACE();
namespace thermoe::cpu::HWY_NAMESPACE {

template <DType kType>
void pack_one(const float* from, int64_t cols, float* to) {
  const Floats d;
  const int64_t lanes = static_cast<int64_t>(hn::Lanes(d));
  int64_t c = 0;
  for (; c + 2 * lanes <= cols; c += 2 * lanes)
    store_packed<kType>(hn::LoadU(d, from + c), hn::LoadU(d, from + c + lanes), to + c);
  const int64_t padded = padded_cols(cols);
  if (c == padded) return;
  std::fill(to + c, to + padded, 0.0f);
  if (c == cols) return;
  float rest[kPackedBlock] = {};
  std::copy(from + c, from + cols, rest);
  store_packed<kType>(hn::LoadU(d, rest), hn::LoadU(d, rest + lanes), to + c);
}

template <DType kType>
void pack_swiglu_one(const float* gate, const float* up, int64_t cols, float* to) {
  const Floats d;
  const int64_t lanes = static_cast<int64_t>(hn::Lanes(d));
  int64_t c = 0;
  for (; c + 2 * lanes <= cols; c += 2 * lanes)
    store_packed<kType>(swiglu(d, hn::LoadU(d, gate + c), hn::LoadU(d, up + c)),
                        swiglu(d, hn::LoadU(d, gate + c + lanes), hn::LoadU(d, up + c + lanes)),
                        to + c);
  const int64_t padded = padded_cols(cols);
  if (c == padded) return;
  std::fill(to + c, to + padded, 0.0f);
  if (c == cols) return;
  float gates[kPackedBlock] = {}, ups[kPackedBlock] = {};  // swiglu(0, 0) = 0
  std::copy(gate + c, gate + cols, gates);
  std::copy(up + c, up + cols, ups);
  store_packed<kType>(swiglu(d, hn::LoadU(d, gates), hn::LoadU(d, ups)),
                      swiglu(d, hn::LoadU(d, gates + lanes), hn::LoadU(d, ups + lanes)), to + c);
}

void pack_rows(DType dtype, ConstMatrix x, Matrix packed) {
  for (int64_t r = 0; r < x.rows; ++r) {
    if (dtype == DType::kBf16)
      pack_one<DType::kBf16>(x.row(r), x.cols, packed.row(r));
    else  // f16 and f32 are widened in their own order
      pack_one<DType::kF32>(x.row(r), x.cols, packed.row(r));
  }
}

void pack_swiglu(DType dtype, ConstMatrix gate, ConstMatrix up, Matrix packed) {
  for (int64_t r = 0; r < gate.rows; ++r) {
    if (dtype == DType::kBf16)
      pack_swiglu_one<DType::kBf16>(gate.row(r), up.row(r), gate.cols, packed.row(r));
    else
      pack_swiglu_one<DType::kF32>(gate.row(r), up.row(r), gate.cols, packed.row(r));
  }
}

}  // namespace thermoe::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace thermoe::cpu {
HWY_EXPORT(pack_rows);
HWY_EXPORT(pack_swiglu);

void pack_rows(DType dtype, ConstMatrix x, Matrix packed) {
  HWY_DYNAMIC_DISPATCH(pack_rows)(dtype, x, packed);
}

void pack_swiglu(DType dtype, ConstMatrix gate, ConstMatrix up, Matrix packed) {
  HWY_DYNAMIC_DISPATCH(pack_swiglu)(dtype, gate, up, packed);
}
}  // namespace thermoe::cpu
#endif
