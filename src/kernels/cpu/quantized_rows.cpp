#include "kernels/cpu/quantized_rows.h"

#include <algorithm>
#include <cstring>
#include <limits>

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/quantized_rows.cpp"
#include "hwy/foreach_target.h"  // IWYU pragma: keep
#include "hwy/highway.h"

HWY_BEFORE_NAMESPACE();
namespace thermoe::cpu::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

constexpr size_t kGroup = NestedView::kBlock;
using GroupFloats = hn::CappedTag<float, 16>;

// The largest magnitude of 32 values, as the bits of a f32: infinities and NaN compare as larger
// than every number.
HWY_INLINE int32_t largest_bits(const float* x) {
  const GroupFloats d;
  const hn::RebindToSigned<GroupFloats> di;
  const auto magnitude = hn::Set(di, 0x7fffffff);
  auto most = hn::Zero(di);
  for (size_t i = 0; i < kGroup; i += hn::Lanes(d))
    most = hn::Max(most, hn::And(hn::BitCast(di, hn::LoadU(d, x + i)), magnitude));
  return hn::GetLane(hn::MaxOfLanes(di, most));
}

HWY_INLINE void round_group(const float* x, float steps, int8_t* to) {
  const GroupFloats d;
  const hn::RebindToSigned<GroupFloats> di;
  const hn::Rebind<int8_t, GroupFloats> d8;
  const auto most = hn::Set(di, 127), least = hn::Set(di, -127);
  for (size_t i = 0; i < kGroup; i += hn::Lanes(d)) {
    const auto q = hn::NearestInt(hn::Mul(hn::LoadU(d, x + i), hn::Set(d, steps)));
    hn::StoreU(hn::DemoteTo(d8, hn::Min(hn::Max(q, least), most)), d8, to + i);
  }
}

// From natural order to the kernels'.
HWY_INLINE void permute_group(const int8_t* from, int8_t* to) {
#if HWY_TARGET == HWY_SCALAR || HWY_HAVE_SCALABLE
  constexpr int kColumn[4] = {0, 8, 1, 9};
  for (int i = 0; i < kGroupBytes; ++i) to[i] = from[i / 8 % 2 * 16 + i / 16 * 2 + kColumn[i % 4]];
#else
  const hn::FixedTag<int8_t, 16> d8;
  const hn::FixedTag<int32_t, 4> d32;
  const hn::FixedTag<int64_t, 2> d64;
  const auto words = [&](const int8_t* half) {  // columns 0, 8, 1, 9 | 2, 10, 3, 11 | ..
    const auto v = hn::LoadU(d8, half);
    return hn::BitCast(d32, hn::InterleaveLower(d8, v, hn::ShiftRightBytes<8>(d8, v)));
  };
  const auto put = [&](auto k0, auto k1, int8_t* at) {  // two threads t, each word twice
    const auto a = hn::BitCast(d64, k0), b = hn::BitCast(d64, k1);
    hn::StoreU(hn::BitCast(d8, hn::InterleaveLower(d64, a, b)), d8, at);
    hn::StoreU(hn::BitCast(d8, hn::InterleaveUpper(d64, a, b)), d8, at + 16);
  };
  const auto k0 = words(from), k1 = words(from + 16);
  put(hn::InterleaveLower(d32, k0, k0), hn::InterleaveLower(d32, k1, k1), to);
  put(hn::InterleaveUpper(d32, k0, k0), hn::InterleaveUpper(d32, k1, k1), to + 32);
#endif
}

HWY_INLINE void quantize_group(const float* x, int8_t* to, float& scale, float& sum) {
  const int32_t bits = largest_bits(x);
  constexpr int32_t kInfinity = 0x7f800000;
  constexpr int32_t kLeast = (127 - 100) << 23;  // 2^-100: below, 127 / amax nears the overflow
  if (bits >= kInfinity || bits < kLeast) {
    std::memset(to, 0, kGroupBytes);
    scale = sum = bits >= kInfinity ? std::numeric_limits<float>::quiet_NaN() : 0.0f;
    return;
  }
  float most;
  std::memcpy(&most, &bits, sizeof(most));
  int8_t rounded[kGroup];
  round_group(x, 127.0f / most, rounded);
  permute_group(rounded, to);
  scale = most / 127.0f;
  int total = 0;
  for (const int8_t q : rounded) total += q;
  sum = scale * static_cast<float>(total);
}

void quantize_rows(ConstMatrix x, int64_t first, const MutableQuantizedRows& to) {
  constexpr int64_t kColumns = NestedView::kBlock;
  for (int64_t r = 0; r < x.rows; ++r) {
    int8_t* values = reinterpret_cast<int8_t*>(to.row(r));
    float* scales = reinterpret_cast<float*>(to.row(r) + to.scales_at());
    float* sums = reinterpret_cast<float*>(to.row(r) + to.sums_at());
    for (int64_t c = 0; c < x.cols; c += kColumns) {
      const int64_t group = (first + c) / kColumns;
      const float* from = x.row(r) + c;
      float rest[kColumns] = {};
      if (x.cols - c < kColumns) {
        std::copy_n(from, x.cols - c, rest);
        from = rest;
      }
      quantize_group(from, values + group * kGroupBytes, scales[group], sums[group]);
    }
  }
}

}  // namespace thermoe::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace thermoe::cpu {
HWY_EXPORT(quantize_rows);

void quantize_rows(ConstMatrix x, int64_t first, const MutableQuantizedRows& to) {
  HWY_DYNAMIC_DISPATCH(quantize_rows)(x, first, to);
}
}  // namespace thermoe::cpu
#endif
