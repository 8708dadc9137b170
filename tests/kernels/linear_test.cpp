// The products by stored weights against float64, over odd shapes and all stored types.
#include "kernels/cpu/linear.h"

#include <gtest/gtest.h>

#include <string>

#include "kernels/cpu/multiply.h"
#include "kernels/reference.h"

namespace thermoe::cpu {
namespace {

using test::random_floats;
using test::random_weight;
using test::StoredWeight;

struct Packed {
  std::vector<float> data;
  int64_t stride;
};

Packed pack(DType dtype, const std::vector<float>& x, int64_t rows, int64_t cols) {
  Packed packed{{}, padded_cols(cols)};
  packed.data.assign(static_cast<size_t>(rows * packed.stride), -7.0f);
  pack_rows(dtype, ConstMatrix(x.data(), rows, cols),
            Matrix(packed.data.data(), rows, packed.stride));
  return packed;
}

// The error that f32 accumulation may make: proportional to the sum of magnitudes.
double tolerance(const float* x, const StoredWeight& w, int64_t r) {
  double sum = 0;
  for (int64_t c = 0; c < w.cols; ++c) sum += std::fabs(x[c] * w.at(r, c));
  return (static_cast<double>(w.cols) / 4 + 8) * std::ldexp(1.0, -24) * sum + 1e-30;
}

class Products : public ::testing::TestWithParam<DType> {};

TEST_P(Products, AgreeWithFloat64OverOddShapes) {
  uint32_t seed = 1;
  for (const int64_t cols : {1, 7, 16, 31, 64, 97, 256, 521})
    for (const int64_t outputs : {1, 2, 5, 8, 13, 37})
      for (const int64_t rows : {1, 2, 3, 4, 5, 6, 7, 11, 13, 16, 47, 48, 61}) {
        const StoredWeight w = random_weight(GetParam(), outputs, cols, ++seed);
        const std::vector<float> x = random_floats(rows * cols, ++seed);
        const Packed packed = pack(GetParam(), x, rows, cols);
        std::vector<float> y(static_cast<size_t>(rows * outputs), NAN);
        std::vector<float> scratch(multiply_scratch_floats(rows, cols, false));
        multiply({packed.data.data(), packed.stride, rows}, w.view(), 0, outputs, y.data(), outputs,
                 false, scratch.data());
        for (int64_t r = 0; r < rows; ++r)
          for (int64_t o = 0; o < outputs; ++o)
            ASSERT_NEAR(y[static_cast<size_t>(r * outputs + o)],
                        test::dot(x.data() + r * cols, w, o), tolerance(x.data() + r * cols, w, o))
                << "rows " << rows << " outputs " << outputs << " cols " << cols << " at " << r
                << ", " << o;
      }
}

TEST_P(Products, GatherRowsAndTouchOnlyTheirRange) {
  const int64_t cols = 72, outputs = 40, stride = 50, all_rows = 90;
  const StoredWeight w = random_weight(GetParam(), outputs, cols, 3);
  const std::vector<float> x = random_floats(all_rows * cols, 4);
  const Packed packed = pack(GetParam(), x, all_rows, cols);
  for (const int64_t rows : {1, 3, 9, 60}) {  // both ways of multiplying
    std::vector<int32_t> ids;
    for (int64_t r = 0; r < rows; ++r) ids.push_back(static_cast<int32_t>((r * 37 + 5) % all_rows));
    std::vector<float> y(static_cast<size_t>(rows * stride), 2.0f);
    std::vector<float> scratch(multiply_scratch_floats(rows, cols, true));
    multiply({packed.data.data(), packed.stride, rows, ids.data()}, w.view(), 11, 17, y.data(),
             stride, true, scratch.data());
    for (int64_t r = 0; r < rows; ++r)
      for (int64_t o = 0; o < stride; ++o) {
        const float* row = x.data() + ids[static_cast<size_t>(r)] * cols;
        const float got = y[static_cast<size_t>(r * stride + o)];
        if (o >= 11 && o < 28)
          ASSERT_NEAR(got, 2.0 + test::dot(row, w, o), tolerance(row, w, o) + 1e-6);
        else
          ASSERT_EQ(got, 2.0f);
      }
  }
}

// A row's bits don't depend on the batch that it is in.
TEST_P(Products, RowsDoNotDependOnTheBatch) {
  const int64_t cols = 136, outputs = 21, rows = 29;
  const StoredWeight w = random_weight(GetParam(), outputs, cols, 5);
  const std::vector<float> x = random_floats(rows * cols, 6);
  const Packed packed = pack(GetParam(), x, rows, cols);
  const PackedRows all{packed.data.data(), packed.stride, rows};
  std::vector<float> together(static_cast<size_t>(rows * outputs)), alone(together);
  linear(all, w.view(), 0, outputs, together.data(), outputs);
  for (int64_t group : {1, 2, 3, 4, 7}) {
    for (int64_t r = 0; r < rows; r += group) {
      const int64_t count = std::min(group, rows - r);
      for (int64_t o = 0; o < outputs; o += 5)
        linear(all.slice(r, count), w.view(), o, std::min<int64_t>(5, outputs - o),
               alone.data() + r * outputs, outputs);
    }
    EXPECT_EQ(together, alone) << "groups of " << group;
  }
}

TEST_P(Products, WidenedRowsAreExact) {
  const int64_t cols = 45, outputs = 6;
  const StoredWeight w = random_weight(GetParam(), outputs, cols, 8);
  std::vector<float> widened(static_cast<size_t>(3 * padded_cols(cols)), NAN);
  widen_rows(w.view(), 2, 3, widened.data());
  // Packing the exact values gives the same order.
  const std::vector<float> exact(w.floats.begin() + 2 * cols, w.floats.begin() + 5 * cols);
  EXPECT_EQ(widened, pack(GetParam(), exact, 3, cols).data);
}

TEST_P(Products, SwigluPacksAsItsValuesWould) {
  const int64_t rows = 3, cols = 45;
  const std::vector<float> gate = random_floats(rows * cols, 9, 6.0f);
  const std::vector<float> up = random_floats(rows * cols, 10);
  Packed got{std::vector<float>(static_cast<size_t>(rows * padded_cols(cols)), NAN),
             padded_cols(cols)};
  pack_swiglu(GetParam(), ConstMatrix(gate.data(), rows, cols), ConstMatrix(up.data(), rows, cols),
              Matrix(got.data.data(), rows, got.stride));
  std::vector<float> exact;
  for (size_t i = 0; i < gate.size(); ++i)
    exact.push_back(static_cast<float>(test::silu(gate[i]) * up[i]));
  const Packed want = pack(GetParam(), exact, rows, cols);
  for (size_t i = 0; i < want.data.size(); ++i)
    ASSERT_NEAR(got.data[i], want.data[i], 1e-6 * std::fabs(want.data[i])) << i;
}

INSTANTIATE_TEST_SUITE_P(Dtypes, Products,
                         ::testing::Values(DType::kF32, DType::kF16, DType::kBf16),
                         [](const auto& param) { return std::string(name_of(param.param)); });

TEST(Swiglu, KeepsNanAndSaturates) {
  const std::vector<float> gate{NAN, 200.0f, -200.0f, 1.0f}, up{1.0f, 1.0f, 1.0f, NAN};
  std::vector<float> packed(kPackedBlock);
  pack_swiglu(DType::kF32, ConstMatrix(gate.data(), 1, 4), ConstMatrix(up.data(), 1, 4),
              Matrix(packed.data(), 1, kPackedBlock));
  EXPECT_TRUE(std::isnan(packed[0]));
  EXPECT_FLOAT_EQ(packed[1], 200.0f);
  EXPECT_NEAR(packed[2], 0.0f, 1e-30f);
  EXPECT_TRUE(std::isnan(packed[3]));
}

}  // namespace
}  // namespace thermoe::cpu
