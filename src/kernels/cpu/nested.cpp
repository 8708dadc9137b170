// Ice Lake and later, and Zen 4: VNNI's products of bytes.
#define HWY_WANT_AVX3_DL

#include "kernels/cpu/nested.h"

#include <algorithm>
#include <cstring>

#include "hwy/cache_control.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/nested.cpp"
#include "hwy/foreach_target.h"  // IWYU pragma: keep
#include "hwy/highway.h"
// After highway.h: they need its macros.
#include "kernels/cpu/nested_dot-inl.h"
#include "kernels/cpu/swiglu-inl.h"

HWY_BEFORE_NAMESPACE();
namespace thermoe::cpu::HWY_NAMESPACE {

constexpr int kMaxRows = 16;  // whose sums of a row block stay in the L1 cache
constexpr int kBlockRows = NestedView::kBlock;

// Some rows of activations.
struct Rows {
  const std::byte* rows[kMaxRows];
  int count;
  int64_t scales_at, sums_at;

  const int8_t* values(int r, int64_t group) const {
    return reinterpret_cast<const int8_t*>(rows[r]) + group * kGroupBytes;
  }
  float scale(int r, int64_t group) const {
    return reinterpret_cast<const float*>(rows[r] + scales_at)[group];
  }
  float sum(int r, int64_t group) const {
    return reinterpret_cast<const float*>(rows[r] + sums_at)[group];
  }
};

// The planes and scales of one block.
struct Block {
  const uint8_t *hi, *lo, *scales;
};
Block block_of(const NestedView& w, int64_t row_block, int64_t group) {
  const int64_t at = row_block * w.col_blocks() + group;
  return {w.hi + at * NestedView::kPlaneBlockBytes, w.lo + at * NestedView::kPlaneBlockBytes,
          w.scales + at * NestedView::kScaleBlockBytes};
}

#if THERMOE_NESTED_VECTORS

constexpr int kTileRows = 4;  // whose activations stay in registers
constexpr int kChunk = 4;     // blocks that are unpacked ahead of use, to hide its latency
constexpr int kUnits = 16;    // products of a row and a block: of each g's low and high nibbles
constexpr int kRowSums = kUnits * kSumLanes;
// Without VNNI, int8 is two products of bytes per row, or one of words once both planes are joined
// to words, which takes as long as about 3 rows' products of bytes (Zen 3). Both give the same
// integers.
constexpr int kWordRows = 6;
constexpr int kPrefetchBlocks = 8;  // 4 KiB ahead in each plane

// A row block's sums while they grow, and what is unpacked of the chunk of blocks at hand.
struct State {
  HWY_ALIGN float sums[kMaxRows * kRowSums];      // [row, unit, lane]
  HWY_ALIGN float biases[kMaxRows * kBlockRows];  // [row, scale] scale * sum of activations
  HWY_ALIGN float scales[kChunk][kBlockRows];
  HWY_ALIGN int16_t words[kChunk][kUnits * 64];
};
struct Chunk {
  Block first;
  int64_t group;
  int64_t left;  // blocks of the weight from here on
  int blocks;

  const uint8_t* hi(int i) const { return first.hi + i * NestedView::kPlaneBlockBytes; }
  const uint8_t* lo(int i) const { return first.lo + i * NestedView::kPlaneBlockBytes; }
  const uint8_t* scales(int i) const { return first.scales + i * NestedView::kScaleBlockBytes; }
  // Bytes from a block's plane to what to ask memory for meanwhile; within the weight.
  int64_t ahead(int i) const {
    return std::min<int64_t>(kPrefetchBlocks, left - 1 - i) * NestedView::kPlaneBlockBytes;
  }
};

// The scales of a block times that of each row's group, and the biases' sums.
template <int kRows>
HWY_INLINE void scale_rows(const Rows& x, int first, int64_t group, const float* block_scales,
                           float* biases, float (*scales)[kBlockRows]) {
  const Floats32 d;
  HWY_UNROLL(4)
  for (int r = 0; r < kRows; ++r) {
    const auto scale = hn::Set(d, x.scale(first + r, group));
    const auto sum = hn::Set(d, x.sum(first + r, group));
    float* bias = biases + (first + r) * kBlockRows;
    for (int i = 0; i < kBlockRows; i += kSumLanes) {
      const auto v = hn::Load(d, block_scales + i);
      hn::Store(hn::Mul(v, scale), d, scales[r] + i);
      hn::Store(hn::MulAdd(v, sum, hn::Load(d, bias + i)), d, bias + i);
    }
  }
}

HWY_INLINE void add_scaled(hn::Vec<Integers> integers, const float* scales, float* sum) {
  const Floats32 d;
  hn::Store(hn::MulAdd(hn::ConvertTo(d, integers), broadcast_pair(scales), hn::Load(d, sum)), d,
            sum);
}

// A chunk times kRows rows from `first` on, by products of bytes.
template <Planes kPlanes, int kRows>
HWY_NOINLINE void add_bytes(const Rows& x, int first, const Chunk& chunk, int32_t plane_ratio,
                            State& state) {
  const ByteProducts<kPlanes> products(plane_ratio);
  for (int block = 0; block < chunk.blocks; ++block) {
    ByteRow rows[kRows];
    HWY_UNROLL(4)
    for (int r = 0; r < kRows; ++r) rows[r].load(x.values(first + r, chunk.group + block));
    HWY_ALIGN float scales[kRows][kBlockRows];
    scale_rows<kRows>(x, first, chunk.group + block, state.scales[block], state.biases, scales);
    float* to = state.sums + first * kRowSums;
    const int64_t ahead = chunk.ahead(block);
    for (int g = 0; g < kUnits / 2; ++g) {
      Nibbles hi, lo;
      hi.load(chunk.hi(block) + g * 64);
      hwy::Prefetch(chunk.hi(block) + g * 64 + ahead);
      if constexpr (kPlanes == Planes::kBoth) {
        lo.load(chunk.lo(block) + g * 64);
        hwy::Prefetch(chunk.lo(block) + g * 64 + ahead);
      }
      const auto low = products.unit(hi.low, lo.low), high = products.unit(hi.high, lo.high);
      HWY_UNROLL(4)
      for (int r = 0; r < kRows; ++r) {
        float* sum = to + r * kRowSums + 2 * g * kSumLanes;
        add_scaled(products.times(low, rows[r]), scales[r] + 4 * g, sum);
        add_scaled(products.times(high, rows[r]), scales[r] + 4 * g + 2, sum + kSumLanes);
      }
    }
  }
}

// Likewise by products of words.
template <int kRows>
HWY_NOINLINE void add_words(const Rows& x, int first, const Chunk& chunk, State& state) {
  const Words d;
  for (int block = 0; block < chunk.blocks; ++block) {
    WordRow rows[kRows];
    HWY_UNROLL(4)
    for (int r = 0; r < kRows; ++r) rows[r].load(x.values(first + r, chunk.group + block));
    HWY_ALIGN float scales[kRows][kBlockRows];
    scale_rows<kRows>(x, first, chunk.group + block, state.scales[block], state.biases, scales);
    float* to = state.sums + first * kRowSums;
    for (int unit = 0; unit < kUnits; ++unit) {
      hn::Vec<Words> w[2 * kParts];
      HWY_UNROLL(8)
      for (int i = 0; i < 2 * kParts; ++i)
        w[i] = hn::Load(d, state.words[block] + unit * 64 + i * (kByteLanes / 2));
      HWY_UNROLL(4)
      for (int r = 0; r < kRows; ++r)
        add_scaled(word_products(w, rows[r]), scales[r] + 2 * unit,
                   to + r * kRowSums + unit * kSumLanes);
    }
  }
}

// What all rows of a chunk share.
HWY_INLINE void unpack_chunk(const Chunk& chunk, bool words, int32_t plane_ratio, State& state) {
  const RatioTable table(plane_ratio);
  for (int block = 0; block < chunk.blocks; ++block) {
    decode_scales(chunk.scales(block), state.scales[block]);
    if (!words) continue;
    const int64_t ahead = chunk.ahead(block);
    for (int g = 0; g < kUnits / 2; ++g) {
      const uint8_t *hi = chunk.hi(block) + g * 64, *lo = chunk.lo(block) + g * 64;
      hwy::Prefetch(hi + ahead);
      hwy::Prefetch(lo + ahead);
      unpack_words(hi, lo, table, state.words[block] + g * 128);
    }
  }
}

// All rows times a chunk, in tiles of kTileRows and a rest.
template <Planes kPlanes>
HWY_INLINE void add_chunk(const Rows& x, const Chunk& chunk, bool words, int32_t plane_ratio,
                          State& state) {
  for (int first = 0; first < x.count; first += kTileRows) {
    switch (std::min(kTileRows, x.count - first)) {
#define THERMOE_TILE(R)                                           \
  case R:                                                         \
    if (words)                                                    \
      add_words<R>(x, first, chunk, state);                       \
    else                                                          \
      add_bytes<kPlanes, R>(x, first, chunk, plane_ratio, state); \
    break
      THERMOE_TILE(1);
      THERMOE_TILE(2);
      THERMOE_TILE(3);
      THERMOE_TILE(4);
#undef THERMOE_TILE
    }
  }
}

// to[r * 32 + i] = the sum of row i of a row block (without the base) for row r of x.
template <Planes kPlanes>
void row_block(const Rows& x, const NestedView& w, int64_t row_block, float* to) {
  State state;
  std::fill_n(state.sums, x.count * kRowSums, 0.0f);
  std::fill_n(state.biases, x.count * kBlockRows, 0.0f);
  const bool words = kPlanes == Planes::kBoth && !THERMOE_NESTED_VNNI && x.count >= kWordRows;
  for (int64_t group = 0; group < w.col_blocks(); group += kChunk) {
    const Chunk chunk{block_of(w, row_block, group), group,
                      w.blocks() - row_block * w.col_blocks() - group,
                      static_cast<int>(std::min<int64_t>(kChunk, w.col_blocks() - group))};
    unpack_chunk(chunk, words, w.plane_ratio, state);
    add_chunk<kPlanes>(x, chunk, words, w.plane_ratio, state);
  }
  const int weight = w.plane_ratio + (kPlanes == Planes::kBoth ? 1 : 0);
  const float bias = -8.0f * static_cast<float>(weight);
  for (int r = 0; r < x.count; ++r)
    for (int unit = 0; unit < kUnits; ++unit) {
      float pair[2];
      sum_even_odd(Floats32(), hn::Load(Floats32(), state.sums + r * kRowSums + unit * kSumLanes),
                   pair);
      const float* biases = state.biases + r * kBlockRows + 2 * unit;
      float* row = to + r * kBlockRows + unit / 2 + unit % 2 * 8;
      row[0] = pair[0] + bias * biases[0];
      row[16] = pair[1] + bias * biases[1];
    }
}

#else

// Value by value.
template <Planes kPlanes>
void row_block(const Rows& x, const NestedView& w, int64_t row_block, float* to) {
  std::fill_n(to, x.count * kBlockRows, 0.0f);
  for (int64_t group = 0; group < w.col_blocks(); ++group) {
    const Block block = block_of(w, row_block, group);
    for (int i = 0; i < kBlockRows; ++i) {
      const int g = i / 4, shift = i / 2 % 2 * 4, m = i % 2;
      const float scale = nested_scale(block.scales[i]);
      for (int r = 0; r < x.count; ++r) {
        int sum = 0;
        for (int byte = 0; byte < kGroupBytes; ++byte) {
          if (byte / 4 % 2 != m) continue;  // a word of the other row
          int weight = w.plane_ratio * ((block.hi[g * kGroupBytes + byte] >> shift & 15) - 8);
          if (kPlanes == Planes::kBoth)
            weight += (block.lo[g * kGroupBytes + byte] >> shift & 15) - 8;
          sum += weight * x.values(r, group)[byte];
        }
        to[r * kBlockRows + g + 2 * shift + 16 * m] +=
            static_cast<float>(sum) * (x.scale(r, group) * scale);
      }
    }
  }
}

#endif

// Calls finish(first row, rows, row block, sums [rows, 32] without the base) for all.
template <typename Finish>
HWY_INLINE void for_blocks(const QuantizedRows& x, const NestedView& w, Planes planes,
                           int64_t first, int64_t blocks, Finish&& finish) {
  HWY_ALIGN float sums[kMaxRows * kBlockRows];
  Rows rows;
  rows.scales_at = x.scales_at();
  rows.sums_at = x.sums_at();
  for (int64_t block = first; block < first + blocks; ++block)
    for (int64_t row = 0; row < x.count; row += kMaxRows) {
      rows.count = static_cast<int>(std::min<int64_t>(kMaxRows, x.count - row));
      for (int r = 0; r < rows.count; ++r) rows.rows[r] = x.row(row + r);
      if (planes == Planes::kHi)
        row_block<Planes::kHi>(rows, w, block, sums);
      else
        row_block<Planes::kBoth>(rows, w, block, sums);
      finish(row, rows.count, block, sums);
    }
}

void nested_multiply(const QuantizedRows& x, const NestedView& w, Planes planes, int64_t first,
                     int64_t blocks, float* y, int64_t y_stride) {
  for_blocks(x, w, planes, first, blocks,
             [&](int64_t row, int rows, int64_t block, const float* sums) {
               const int64_t at = block * kBlockRows;
               const int64_t outputs = std::min<int64_t>(kBlockRows, w.rows - at);
               for (int r = 0; r < rows; ++r)
                 for (int64_t i = 0; i < outputs; ++i)
                   y[(row + r) * y_stride + at + i] = w.base * sums[r * kBlockRows + i];
             });
}

void nested_swiglu(const QuantizedRows& x, const NestedView& w, Planes planes, int64_t first,
                   int64_t blocks, float* y, int64_t y_stride) {
  const hn::CappedTag<float, 8> d;
  const auto base = hn::Set(d, w.base);
  for_blocks(
      x, w, planes, first, blocks, [&](int64_t row, int rows, int64_t block, const float* sums) {
        for (int r = 0; r < rows; ++r)
          for (size_t unit = 0; unit < 16; unit += hn::Lanes(d)) {
            const float* gate = sums + r * kBlockRows + unit + unit / 8 * 8;
            hn::StoreU(
                swiglu(d, hn::Mul(base, hn::LoadU(d, gate)), hn::Mul(base, hn::LoadU(d, gate + 8))),
                d, y + (row + r) * y_stride + block * 16 + unit);
          }
      });
}

}  // namespace thermoe::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace thermoe::cpu {
HWY_EXPORT(nested_multiply);
HWY_EXPORT(nested_swiglu);

void nested_multiply(const QuantizedRows& x, const NestedView& w, Planes planes, int64_t first,
                     int64_t blocks, float* y, int64_t y_stride) {
  HWY_DYNAMIC_DISPATCH(nested_multiply)(x, w, planes, first, blocks, y, y_stride);
}

void nested_swiglu(const QuantizedRows& x, const NestedView& gate_up, Planes planes, int64_t first,
                   int64_t blocks, float* y, int64_t y_stride) {
  HWY_DYNAMIC_DISPATCH(nested_swiglu)(x, gate_up, planes, first, blocks, y, y_stride);
}
}  // namespace thermoe::cpu
#endif
