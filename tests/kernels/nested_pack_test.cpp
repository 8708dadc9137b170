// The packed order of nested planes against the words of thermoe/nested_view.h.
#include "kernels/cpu/nested_pack.h"

#include <gtest/gtest.h>

#include <cmath>

#include "kernels/nested_planes.h"
#include "thermoe/error.h"

namespace thermoe::cpu {
namespace {

using test::random_planes;

constexpr int64_t kSizes[] = {1, 2, 7, 8, 15, 16, 17, 31, 32, 33, 48, 63, 64, 65, 90, 100};

TEST(NestedPack, UnpacksWhatItPacked) {
  uint32_t seed = 1;
  for (const int64_t rows : kSizes)
    for (const int64_t cols : kSizes) {
      const NaturalPlanes planes = random_planes(rows, cols, ++seed);
      const PackedPlanes packed = pack_nested(planes);
      const NestedView w = packed.view(1, 16);
      ASSERT_EQ(packed.hi.size() + packed.lo.size() + packed.scales.size(), w.bytes(Planes::kBoth));
      ASSERT_EQ(packed.hi.size() + packed.scales.size(), w.bytes(Planes::kHi));
      const NaturalPlanes back = unpack_nested(w);
      ASSERT_EQ(back.hi, planes.hi) << rows << " x " << cols;
      ASSERT_EQ(back.lo, planes.lo) << rows << " x " << cols;
      ASSERT_EQ(back.scales, planes.scales) << rows << " x " << cols;
    }
}

// Walks a plane as a warp would: the rows and columns of the table in nested_view.h.
TEST(NestedPack, HasTheOrderOfTheHeadersTable) {
  constexpr int64_t kRow[8] = {0, 8, 0, 8, 0, 8, 0, 8}, kCol[8] = {0, 0, 8, 8, 1, 1, 9, 9};
  constexpr int64_t kScaleRow[4] = {0, 16, 8, 24};
  for (const auto& [rows, cols] : {std::pair<int64_t, int64_t>{96, 64}, {45, 71}}) {
    const NaturalPlanes planes = random_planes(rows, cols, 5);
    const PackedPlanes packed = pack_nested(planes);
    const NestedView w = packed.view(1, 16);
    for (int64_t block = 0; block < w.blocks(); ++block)
      for (int64_t g = 0; g < 8; ++g) {
        const int64_t row0 = block / w.col_blocks() * 32, group = block % w.col_blocks();
        for (int64_t t = 0; t < 4; ++t)
          for (int64_t word = 0; word < 4; ++word)
            for (int64_t nibble = 0; nibble < 8; ++nibble) {
              const int64_t m = word % 2, k = word / 2;
              const int64_t row = row0 + 16 * m + g + kRow[nibble];
              const int64_t col = 32 * group + 16 * k + 2 * t + kCol[nibble];
              const uint8_t byte = w.lo[512 * block + 16 * (4 * g + t) + 4 * word + nibble / 2];
              const int value = (byte >> 4 * (nibble % 2) & 15) - 8;
              const bool inside = row < rows && col < cols;
              ASSERT_EQ(value, inside ? planes.lo[static_cast<size_t>(row * cols + col)] : 0)
                  << row << ", " << col;
            }
        for (int64_t i = 0; i < 4; ++i) {
          const int64_t row = row0 + g + kScaleRow[i];
          ASSERT_EQ(
              w.scales[32 * block + 4 * g + i],
              row < rows ? planes.scales[static_cast<size_t>(row * w.col_blocks() + group)] : 0);
        }
      }
  }
}

TEST(NestedPack, DequantizesBothWays) {
  const NaturalPlanes planes = random_planes(37, 75, 9);
  const PackedPlanes packed = pack_nested(planes);
  for (const int32_t ratio : {1, 8, 16}) {
    const NestedView w = packed.view(0.25f, ratio);
    std::vector<float> eight(37 * 75), four(37 * 75);
    dequantize_nested(w, Planes::kBoth, Matrix(eight.data(), 37, 75));
    dequantize_nested(w, Planes::kHi, Matrix(four.data(), 37, 75));
    for (size_t i = 0; i < eight.size(); ++i) {
      const float scale = 0.25f * nested_scale(planes.scales[i / 75 * 3 + i % 75 / 32]);
      ASSERT_EQ(four[i], scale * static_cast<float>(ratio * planes.hi[i]));
      ASSERT_EQ(eight[i], scale * static_cast<float>(ratio * planes.hi[i] + planes.lo[i]));
    }
  }
}

TEST(NestedPack, RefusesWhatDoesNotFit) {
  NaturalPlanes planes = random_planes(4, 40, 1);
  planes.hi[7] = 8;
  EXPECT_THROW(pack_nested(planes), InvalidArgument);
  planes = random_planes(4, 40, 1);
  planes.lo[0] = -9;
  EXPECT_THROW(pack_nested(planes), InvalidArgument);
  planes = random_planes(4, 40, 1);
  planes.scales.pop_back();
  EXPECT_THROW(pack_nested(planes), InvalidArgument);
  EXPECT_THROW(join_gate_up(random_planes(4, 40, 1), random_planes(5, 40, 1)), InvalidArgument);
}

// Rows g of a block are gates and rows g + 8 their ups, 16 units a block.
TEST(NestedPack, JoinsGateAndUp) {
  for (const int64_t units : {1, 8, 9, 16, 17, 40}) {
    const NaturalPlanes gate = random_planes(units, 33, 2), up = random_planes(units, 33, 3);
    const NaturalPlanes both = join_gate_up(gate, up);
    ASSERT_EQ(both.rows, (units + 15) / 16 * 32);
    for (int64_t row = 0; row < both.rows; ++row) {
      const int64_t unit = row / 32 * 16 + row % 32 / 16 * 8 + row % 8;
      const NaturalPlanes& from = row % 16 < 8 ? gate : up;
      for (int64_t c = 0; c < 33; ++c) {
        const auto at = static_cast<size_t>(row * 33 + c), of = static_cast<size_t>(unit * 33 + c);
        ASSERT_EQ(both.hi[at], unit < units ? from.hi[of] : 0);
        ASSERT_EQ(both.lo[at], unit < units ? from.lo[of] : 0);
      }
      for (int64_t group = 0; group < 2; ++group)
        ASSERT_EQ(both.scales[static_cast<size_t>(row * 2 + group)],
                  unit < units ? from.scales[static_cast<size_t>(unit * 2 + group)] : 0);
    }
  }
}

TEST(NestedScale, IsAnF8WithoutNan) {
  EXPECT_EQ(nested_scale(0), 0.0f);
  EXPECT_EQ(nested_scale(1), std::ldexp(1.0f, -6));
  EXPECT_EQ(nested_scale(0x30), 1.0f);
  EXPECT_EQ(nested_scale(0xB2), -1.125f);
  EXPECT_EQ(nested_scale(0x7E), 30.0f);
  EXPECT_EQ(nested_scale(0x7F), 31.0f);
}

}  // namespace
}  // namespace thermoe::cpu
