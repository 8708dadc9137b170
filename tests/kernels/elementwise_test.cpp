#include "kernels/cpu/elementwise.h"

#include <gtest/gtest.h>

#include "kernels/reference.h"

namespace thermoe::cpu {
namespace {

using test::random_floats;

TEST(Elementwise, RmsNorm) {
  for (const int64_t n : {1, 7, 16, 31, 256, 521}) {
    const auto x = random_floats(n, 1, 3.0f), weight = random_floats(n, 2);
    std::vector<float> out(static_cast<size_t>(n));
    rms_norm(x.data(), weight.data(), n, 1e-5f, out.data());
    double squares = 0;
    for (float v : x) squares += static_cast<double>(v) * v;
    const double scale = 1.0 / std::sqrt(squares / static_cast<double>(n) + 1e-5);
    for (size_t i = 0; i < out.size(); ++i)
      ASSERT_NEAR(out[i], x[i] * scale * weight[i], 1e-5) << n;
    auto in_place = x;
    rms_norm(in_place.data(), weight.data(), n, 1e-5f, in_place.data());
    EXPECT_EQ(in_place, out);
  }
}

TEST(Elementwise, Softmax) {
  for (const int64_t n : {1, 7, 8, 33, 128}) {
    auto x = random_floats(n, 3, 20.0f);
    const auto logits = x;
    softmax(x.data(), n);
    double sum = 0;
    for (float v : logits) sum += std::exp(static_cast<double>(v));
    for (size_t i = 0; i < x.size(); ++i)
      ASSERT_NEAR(x[i], std::exp(double{logits[i]}) / sum, 1e-6);
  }
}

TEST(Elementwise, WeightedSum) {
  const int64_t n = 37;
  const auto a = random_floats(n, 4), b = random_floats(n, 5), c = random_floats(n, 6);
  const float* rows[] = {a.data(), b.data(), c.data()};
  const float weights[] = {0.5f, -2.0f, 0.25f};
  std::vector<float> out(static_cast<size_t>(n));
  weighted_sum(rows, weights, n, out.data());
  for (size_t i = 0; i < out.size(); ++i)
    ASSERT_NEAR(out[i], 0.5 * a[i] - 2.0 * b[i] + 0.25 * c[i], 1e-5);
}

TEST(Elementwise, WidenRow) {
  for (const DType dtype : {DType::kF32, DType::kF16, DType::kBf16}) {
    const auto table = test::random_weight(dtype, 5, 19, 7);
    std::vector<float> out(19);
    widen_row(table.view(), 3, out.data());
    for (int64_t c = 0; c < 19; ++c) ASSERT_EQ(out[static_cast<size_t>(c)], table.at(3, c));
  }
}

TEST(Elementwise, RotateTurnsPairsOfHalves) {
  for (const int64_t head_dim : {2, 10, 64}) {
    const int64_t heads = 3, half = head_dim / 2;
    auto x = random_floats(heads * head_dim, 8);
    const auto before = x;
    std::vector<float> cosines, sines;
    for (int64_t i = 0; i < half; ++i) {
      cosines.push_back(std::cos(0.3f * static_cast<float>(i + 1)));
      sines.push_back(std::sin(0.3f * static_cast<float>(i + 1)));
    }
    rotate(x.data(), heads, head_dim, cosines.data(), sines.data());
    for (int64_t h = 0; h < heads; ++h)
      for (int64_t i = 0; i < half; ++i) {
        const double a = before[static_cast<size_t>(h * head_dim + i)];
        const double b = before[static_cast<size_t>(h * head_dim + half + i)];
        const double c = cosines[static_cast<size_t>(i)], s = sines[static_cast<size_t>(i)];
        ASSERT_NEAR(x[static_cast<size_t>(h * head_dim + i)], a * c - b * s, 1e-6);
        ASSERT_NEAR(x[static_cast<size_t>(h * head_dim + half + i)], b * c + a * s, 1e-6);
      }
  }
}

}  // namespace
}  // namespace thermoe::cpu
