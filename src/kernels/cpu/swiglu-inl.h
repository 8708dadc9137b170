// silu(gate) * up in vectors; once per SIMD target (Highway).
#if defined(THERMOE_KERNELS_CPU_SWIGLU_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef THERMOE_KERNELS_CPU_SWIGLU_INL_H_
#undef THERMOE_KERNELS_CPU_SWIGLU_INL_H_
#else
#define THERMOE_KERNELS_CPU_SWIGLU_INL_H_
#endif

#include "hwy/contrib/math/math-inl.h"
#include "hwy/highway.h"

HWY_BEFORE_NAMESPACE();
namespace thermoe::cpu::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

template <class D, class V = hn::Vec<D>>
HWY_INLINE V swiglu(D d, V gate, V up) {
  // hn::Exp wraps above 88.7; at 88 the quotient is already below 1e-35.
  const V exponent = hn::Min(hn::Neg(gate), hn::Set(d, 88.0f));
  return hn::Mul(hn::Div(gate, hn::Add(hn::Set(d, 1.0f), hn::Exp(d, exponent))), up);
}

}  // namespace thermoe::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif
