// Vectors of f32 from stored weights, and sums over lanes; once per SIMD target (Highway).
#if defined(THERMOE_KERNELS_CPU_STORED_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef THERMOE_KERNELS_CPU_STORED_INL_H_
#undef THERMOE_KERNELS_CPU_STORED_INL_H_
#else
#define THERMOE_KERNELS_CPU_STORED_INL_H_
#endif

#include <cstdint>
#include <cstring>

#include "hwy/highway.h"
#include "kernels/cpu/rows.h"
#include "thermoe/views.h"

HWY_BEFORE_NAMESPACE();
namespace thermoe::cpu::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

// At most 16 lanes, so that two vectors never exceed kPackedBlock.
using Floats = hn::CappedTag<float, kPackedBlock / 2>;
using Vector = hn::Vec<Floats>;

// load_pair reads 2 * Lanes stored elements as two vectors of f32, in the order of a packed row.
template <DType kType>
struct Stored;

template <>
struct Stored<DType::kF32> {
  using Element = float;
  static HWY_INLINE void load_pair(const float* from, Vector& first, Vector& second) {
    const Floats d;
    first = hn::LoadU(d, from);
    second = hn::LoadU(d, from + hn::Lanes(d));
  }
};

template <>
struct Stored<DType::kF16> {
  using Element = hwy::float16_t;
  static HWY_INLINE void load_pair(const hwy::float16_t* from, Vector& first, Vector& second) {
    const Floats d;
    const hn::Rebind<hwy::float16_t, Floats> half;
    first = hn::PromoteTo(d, hn::LoadU(half, from));
    second = hn::PromoteTo(d, hn::LoadU(half, from + hn::Lanes(d)));
  }
};

template <>
struct Stored<DType::kBf16> {
  using Element = uint16_t;  // bf16 is the upper half of an f32
  static HWY_INLINE void load_pair(const uint16_t* from, Vector& first, Vector& second) {
    const Floats d;
#if HWY_TARGET == HWY_SCALAR
    first = hn::BitCast(d, hn::Set(hn::RebindToUnsigned<Floats>(), uint32_t{from[0]} << 16));
    second = hn::BitCast(d, hn::Set(hn::RebindToUnsigned<Floats>(), uint32_t{from[1]} << 16));
#else
    const hn::Repartition<uint32_t, Floats> d32;
    const hn::Repartition<uint16_t, Floats> d16;
    const auto pairs = hn::BitCast(d32, hn::LoadU(d16, from));
    first = hn::BitCast(d, hn::ShiftLeft<16>(pairs));
    second = hn::BitCast(d, hn::And(pairs, hn::Set(d32, 0xffff0000u)));
#endif
  }
};

// Stores two vectors of consecutive f32 (as Load and Load + Lanes gave them) in packed order.
template <DType kType>
HWY_INLINE void store_packed(Vector low, Vector high, float* to) {
  const Floats d;
  const size_t lanes = hn::Lanes(d);
  if constexpr (kType == DType::kBf16) {
    // The values pass through memory: a shuffle that serves every vector length.
    HWY_ALIGN float natural[kPackedBlock];
    hn::StoreU(low, d, natural);
    hn::StoreU(high, d, natural + lanes);
    hn::LoadInterleaved2(d, natural, low, high);
  }
  hn::StoreU(low, d, to);
  hn::StoreU(high, d, to + lanes);
}

#if HWY_TARGET != HWY_SCALAR && !HWY_HAVE_SCALABLE
// to[0..3] = the sum of the vector's 128-bit blocks.
template <class D>
HWY_INLINE void sum_blocks(D d, hn::Vec<D> v, float* to) {
  if constexpr (hn::MaxLanes(D()) > 4) {
    const hn::Half<D> half;
    sum_blocks(half, hn::Add(hn::LowerHalf(half, v), hn::UpperHalf(half, v)), to);
  } else {
    hn::StoreU(v, d, to);
  }
}
#endif

// to[0..3] = the sums of the lanes of a, b, c, e. The order of the additions is the same in each.
HWY_INLINE void sum_lanes_4(Vector a, Vector b, Vector c, Vector e, float* to) {
  const Floats d;
#if HWY_TARGET == HWY_SCALAR || HWY_HAVE_SCALABLE
  to[0] = hn::GetLane(hn::SumOfLanes(d, a));
  to[1] = hn::GetLane(hn::SumOfLanes(d, b));
  to[2] = hn::GetLane(hn::SumOfLanes(d, c));
  to[3] = hn::GetLane(hn::SumOfLanes(d, e));
#else
  const hn::Repartition<uint64_t, Floats> d64;
  // Per 128-bit block: (a0 + a2, b0 + b2, a1 + a3, b1 + b3), then (a, b, c, e) of that block.
  const Vector ab = hn::Add(hn::InterleaveLower(d, a, b), hn::InterleaveUpper(d, a, b));
  const Vector ce = hn::Add(hn::InterleaveLower(d, c, e), hn::InterleaveUpper(d, c, e));
  const auto ab64 = hn::BitCast(d64, ab);
  const auto ce64 = hn::BitCast(d64, ce);
  sum_blocks(d,
             hn::Add(hn::BitCast(d, hn::InterleaveLower(d64, ab64, ce64)),
                     hn::BitCast(d, hn::InterleaveUpper(d64, ab64, ce64))),
             to);
#endif
}

}  // namespace thermoe::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif
