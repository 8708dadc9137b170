// Dot products of nested planes' blocks and int8 in vectors; once per SIMD target (Highway).
//
// The 64 bytes of a row g of a plane's block (its four threads t) are 1, 2 or 4 vectors. Unpacked,
// each 32-bit lane is four columns of one row: of rows g, g + 16, g, g + 16, .. for the low nibbles
// and g + 8, g + 24, .. for the high ones. Every lane of a product is that row's sum over its share
// of the 32 columns: an integer, the same whichever instructions made it.
#if defined(THERMOE_KERNELS_CPU_NESTED_DOT_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef THERMOE_KERNELS_CPU_NESTED_DOT_INL_H_
#undef THERMOE_KERNELS_CPU_NESTED_DOT_INL_H_
#else
#define THERMOE_KERNELS_CPU_NESTED_DOT_INL_H_
#endif

#include <cstring>

#include "hwy/highway.h"
#include "thermoe/nested_view.h"

// Vectors of one lane or of no fixed length do without all this.
#undef THERMOE_NESTED_VECTORS
#define THERMOE_NESTED_VECTORS (HWY_TARGET != HWY_SCALAR && !HWY_HAVE_SCALABLE)
#undef THERMOE_NESTED_VNNI
#define THERMOE_NESTED_VNNI (HWY_TARGET == HWY_AVX3_DL && HWY_COMPILER_GCC)

HWY_BEFORE_NAMESPACE();
namespace thermoe::cpu::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

#if THERMOE_NESTED_VECTORS

using Bytes = hn::CappedTag<uint8_t, 64>;
using SignedBytes = hn::RebindToSigned<Bytes>;
using Words = hn::Repartition<int16_t, Bytes>;
using Integers = hn::Repartition<int32_t, Bytes>;
using Floats32 = hn::Repartition<float, Bytes>;
constexpr int kByteLanes = static_cast<int>(hn::MaxLanes(Bytes()));
constexpr int kParts = 64 / kByteLanes;  // vectors of a row g
constexpr int kSumLanes = kByteLanes / 4;

// dot_pairs: pairs of unsigned bytes times signed ones, summed, at most 2 * 15 * 127 for nibbles.
// dot_words: pairs of words, likewise.
#if HWY_TARGET == HWY_AVX3 || HWY_TARGET == HWY_AVX3_DL
HWY_INLINE auto dot_pairs(hn::Vec<Bytes> u, hn::Vec<SignedBytes> a) {
  return hn::Vec<Words>{_mm512_maddubs_epi16(u.raw, a.raw)};
}
HWY_INLINE auto dot_words(hn::Vec<Words> a, hn::Vec<Words> b) {
  return hn::Vec<Integers>{_mm512_madd_epi16(a.raw, b.raw)};
}
#elif HWY_TARGET == HWY_AVX2
HWY_INLINE auto dot_pairs(hn::Vec<Bytes> u, hn::Vec<SignedBytes> a) {
  return hn::Vec<Words>{_mm256_maddubs_epi16(u.raw, a.raw)};
}
HWY_INLINE auto dot_words(hn::Vec<Words> a, hn::Vec<Words> b) {
  return hn::Vec<Integers>{_mm256_madd_epi16(a.raw, b.raw)};
}
#elif HWY_TARGET == HWY_SSE4 || HWY_TARGET == HWY_SSSE3
HWY_INLINE auto dot_pairs(hn::Vec<Bytes> u, hn::Vec<SignedBytes> a) {
  return hn::Vec<Words>{_mm_maddubs_epi16(u.raw, a.raw)};
}
HWY_INLINE auto dot_words(hn::Vec<Words> a, hn::Vec<Words> b) {
  return hn::Vec<Integers>{_mm_madd_epi16(a.raw, b.raw)};
}
#else
HWY_INLINE hn::Vec<Words> dot_pairs(hn::Vec<Bytes> u, hn::Vec<SignedBytes> a) {
  const Words d;
  const auto u16 = hn::BitCast(d, u), a16 = hn::BitCast(d, a);
  const auto even =
      hn::Mul(hn::And(u16, hn::Set(d, 0xff)), hn::ShiftRight<8>(hn::ShiftLeft<8>(a16)));
  return hn::Add(even, hn::Mul(hn::ShiftRight<8>(u16), hn::ShiftRight<8>(a16)));
}
HWY_INLINE hn::Vec<Integers> dot_words(hn::Vec<Words> a, hn::Vec<Words> b) {
  const Integers d;
  const auto a32 = hn::BitCast(d, a), b32 = hn::BitCast(d, b);
  const auto even = hn::Mul(hn::ShiftRight<16>(hn::ShiftLeft<16>(a32)),
                            hn::ShiftRight<16>(hn::ShiftLeft<16>(b32)));
  return hn::Add(even, hn::Mul(hn::ShiftRight<16>(a32), hn::ShiftRight<16>(b32)));
}
#endif

// plane_ratio times a nibble, by look-up: at most 240.
class RatioTable {
 public:
  HWY_INLINE explicit RatioTable(int32_t plane_ratio) {
    HWY_ALIGN uint8_t products[16];
    for (int i = 0; i < 16; ++i) products[i] = static_cast<uint8_t>(i * plane_ratio);
    table_ = hn::LoadDup128(Bytes(), products);
  }
  HWY_INLINE hn::Vec<Bytes> times(hn::Vec<Bytes> nibbles) const {
    return hn::TableLookupBytes(table_, nibbles);
  }

 private:
  hn::Vec<Bytes> table_;
};

// A row g's low nibbles of a plane, and its high ones.
struct Nibbles {
  hn::Vec<Bytes> low[kParts], high[kParts];

  HWY_INLINE void load(const uint8_t* from) {
    const Bytes d;
    const hn::Repartition<uint16_t, Bytes> d16;
    const auto mask = hn::Set(d, 15);
    HWY_UNROLL(4)
    for (int i = 0; i < kParts; ++i) {
      const auto v = hn::LoadU(d, from + i * kByteLanes);
      low[i] = hn::And(v, mask);
      high[i] = hn::And(hn::BitCast(d, hn::ShiftRight<4>(hn::BitCast(d16, v))), mask);
    }
  }
};

// A row's activations of a group, as bytes and as words.
struct ByteRow {
  hn::Vec<SignedBytes> values[kParts];

  HWY_INLINE void load(const int8_t* from) {
    HWY_UNROLL(4)
    for (int i = 0; i < kParts; ++i) values[i] = hn::LoadU(SignedBytes(), from + i * kByteLanes);
  }
};
struct WordRow {
  hn::Vec<Words> even[kParts], odd[kParts];

  HWY_INLINE void load(const int8_t* from) {
    HWY_UNROLL(4)
    for (int i = 0; i < kParts; ++i) {
      const auto v = hn::BitCast(Words(), hn::LoadU(SignedBytes(), from + i * kByteLanes));
      even[i] = hn::ShiftRight<8>(hn::ShiftLeft<8>(v));
      odd[i] = hn::ShiftRight<8>(v);
    }
  }
};

// Products of a row with nibbles that stay bytes: u = plane_ratio * hi + lo, biased.
template <Planes kPlanes>
class ByteProducts {
 public:
#if THERMOE_NESTED_VNNI
  HWY_INLINE explicit ByteProducts(int32_t plane_ratio) : table_(plane_ratio) {}
  struct Unit {
    hn::Vec<Bytes> joined;
  };
  HWY_INLINE Unit unit(const hn::Vec<Bytes>* hi, const hn::Vec<Bytes>* lo) const {
    const auto scaled = table_.times(hi[0]);
    if constexpr (kPlanes == Planes::kHi) return {scaled};
    return {hn::Add(scaled, lo[0])};
  }
  HWY_INLINE hn::Vec<Integers> times(const Unit& unit, const ByteRow& x) const {
    // Not the intrinsic: Highway 1.0.3 compiles this target for AVX-VNNI, not AVX512-VNNI.
    auto sum = hn::Zero(Integers());
    asm("vpdpbusd %2, %1, %0" : "+v"(sum.raw) : "v"(unit.joined.raw), "vm"(x.values[0].raw));
    return sum;
  }

 private:
  RatioTable table_;
#else
  HWY_INLINE explicit ByteProducts(int32_t plane_ratio)
      : ratio_(hn::Set(Words(), static_cast<int16_t>(plane_ratio))) {}
  struct Unit {
    hn::Vec<Bytes> hi[kParts], lo[kParts];
  };
  HWY_INLINE Unit unit(const hn::Vec<Bytes>* hi, const hn::Vec<Bytes>* lo) const {
    Unit unit;
    HWY_UNROLL(4)
    for (int i = 0; i < kParts; ++i) {
      unit.hi[i] = hi[i];
      if constexpr (kPlanes == Planes::kBoth) unit.lo[i] = lo[i];
    }
    return unit;
  }
  HWY_INLINE hn::Vec<Integers> times(const Unit& unit, const ByteRow& x) const {
    const auto hi = dot_words(pairs(unit.hi, x), ratio_);
    if constexpr (kPlanes == Planes::kHi) return hi;
    return hn::Add(hi, dot_words(pairs(unit.lo, x), hn::Set(Words(), 1)));
  }

 private:
  // At most 4 * 2 * 15 * 127.
  static HWY_INLINE hn::Vec<Words> pairs(const hn::Vec<Bytes>* u, const ByteRow& x) {
    auto sum = dot_pairs(u[0], x.values[0]);
    HWY_UNROLL(4)
    for (int i = 1; i < kParts; ++i) sum = hn::Add(sum, dot_pairs(u[i], x.values[i]));
    return sum;
  }

  hn::Vec<Words> ratio_;
#endif
};

// A row g of both planes as words plane_ratio * hi + lo, biased: of each part the even columns and
// then the odd ones; 64 for the low nibbles, 64 for the high.
HWY_INLINE void unpack_words(const uint8_t* hi_plane, const uint8_t* lo_plane,
                             const RatioTable& table, int16_t* to) {
  const Words d;
  const hn::RebindToUnsigned<Words> du;
  Nibbles hi, lo;
  hi.load(hi_plane);
  lo.load(lo_plane);
  const auto put = [&](hn::Vec<Bytes> hi_part, hn::Vec<Bytes> lo_part, int16_t* at) {
    const auto joined = hn::BitCast(du, hn::Add(table.times(hi_part), lo_part));
    hn::Store(hn::BitCast(d, hn::And(joined, hn::Set(du, 255))), d, at);
    hn::Store(hn::BitCast(d, hn::ShiftRight<8>(joined)), d, at + kByteLanes / 2);
  };
  HWY_UNROLL(4)
  for (int i = 0; i < kParts; ++i) {
    put(hi.low[i], lo.low[i], to + i * kByteLanes);
    put(hi.high[i], lo.high[i], to + 64 + i * kByteLanes);
  }
}

HWY_INLINE hn::Vec<Integers> word_products(const hn::Vec<Words>* w, const WordRow& x) {
  auto sum = hn::Add(dot_words(w[0], x.even[0]), dot_words(w[1], x.odd[0]));
  HWY_UNROLL(4)
  for (int i = 1; i < kParts; ++i)
    sum = hn::Add(sum, hn::Add(dot_words(w[2 * i], x.even[i]), dot_words(w[2 * i + 1], x.odd[i])));
  return sum;
}

// The scales of a block in the order of its bytes, as nested_scale() has them.
HWY_INLINE void decode_scales(const uint8_t* codes, float* to) {
  const Floats32 d;
  const Integers d32;
  const hn::Rebind<int8_t, Floats32> d8;
  for (int i = 0; i < NestedView::kScaleBlockBytes; i += kSumLanes) {
    // Signed: the sign is copied into all upper bits, of which only the first may stay.
    const auto code = hn::PromoteTo(d32, hn::LoadU(d8, reinterpret_cast<const int8_t*>(codes) + i));
    const auto bits =
        hn::And(hn::ShiftLeft<19>(code), hn::Set(d32, static_cast<int32_t>(0x83F80000)));
    hn::Store(hn::Mul(hn::BitCast(d, bits), hn::Set(d, 0x1p124f)), d, to + i);
  }
}

// Two neighbouring floats in all pairs of lanes.
HWY_INLINE hn::Vec<Floats32> broadcast_pair(const float* from) {
  const hn::Repartition<uint64_t, Floats32> d64;
  uint64_t pair;
  std::memcpy(&pair, from, sizeof(pair));
  return hn::BitCast(Floats32(), hn::Set(d64, pair));
}

// to[0] and to[1] = the sums of the even and of the odd lanes.
template <class D>
HWY_INLINE void sum_even_odd(D d, hn::Vec<D> v, float* to) {
  if constexpr (hn::MaxLanes(D()) > 2) {
    const hn::Half<D> half;
    sum_even_odd(half, hn::Add(hn::LowerHalf(half, v), hn::UpperHalf(half, v)), to);
  } else {
    hn::StoreU(v, d, to);
  }
}

#endif  // THERMOE_NESTED_VECTORS

}  // namespace thermoe::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif
