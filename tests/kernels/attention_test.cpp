// Attention over the cache against a plain float64 softmax.
#include "kernels/cpu/attention.h"

#include <gtest/gtest.h>

#include "kernels/reference.h"

namespace thermoe::cpu {
namespace {

using test::random_floats;

struct Cache {
  std::vector<float> keys, values;              // as the kernel stores them
  std::vector<float> plain_keys, plain_values;  // [position, head_dim]
  int64_t head_dim;

  Cache(int64_t positions, int64_t dim, float spread)
      : keys(static_cast<size_t>(key_floats(positions, dim))),
        values(static_cast<size_t>(value_floats(positions, dim))),
        plain_keys(random_floats(positions * dim, 1, spread)),
        plain_values(random_floats(positions * dim, 2)),
        head_dim(dim) {
    for (int64_t p = 0; p < positions; ++p)
      store_key_value(plain_keys.data() + p * dim, plain_values.data() + p * dim, dim, p,
                      keys.data(), values.data());
  }

  std::vector<double> reference(const float* q, int64_t position, double scale) const {
    std::vector<double> scores, out(static_cast<size_t>(head_dim));
    double most = -1e300, mass = 0;
    for (int64_t p = 0; p <= position; ++p) {
      double score = 0;
      for (int64_t c = 0; c < head_dim; ++c)
        score += static_cast<double>(q[c]) * plain_keys[static_cast<size_t>(p * head_dim + c)];
      scores.push_back(score * scale);
      most = std::max(most, scores.back());
    }
    for (double& score : scores) mass += score = std::exp(score - most);
    for (int64_t p = 0; p <= position; ++p)
      for (int64_t c = 0; c < head_dim; ++c)
        out[static_cast<size_t>(c)] += scores[static_cast<size_t>(p)] / mass *
                                       plain_values[static_cast<size_t>(p * head_dim + c)];
    return out;
  }
};

std::vector<float> attend_rows(const Cache& cache, const std::vector<int32_t>& rows,
                               const std::vector<int32_t>& positions, const std::vector<float>& q,
                               int group, float scale) {
  AttentionCall call;
  call.rows = rows;
  call.positions = positions.data();
  call.queries = q.data();
  std::vector<float> out(q.size(), -3.0f);
  call.out = out.data();
  call.row_stride = group * cache.head_dim;
  call.group = group;
  call.head_dim = cache.head_dim;
  call.scale = scale;
  call.keys = cache.keys.data();
  call.values = cache.values.data();
  std::vector<float> scratch(
      attention_scratch_floats(static_cast<int64_t>(rows.size()), group, cache.head_dim));
  attend(call, scratch.data());
  return out;
}

TEST(Attention, AgreesWithFloat64) {
  for (const int64_t head_dim : {2, 20, 64, 128})
    for (const int group : {1, 2, 3, 8})
      for (const float spread : {1.0f, 6.0f}) {  // flat and peaked softmax
        const Cache cache(400, head_dim, spread);
        const std::vector<int32_t> positions{0, 1, 2, 31, 32, 126, 127, 128, 300, 399};
        std::vector<int32_t> rows;
        for (int32_t r = 0; r < 10; ++r) rows.push_back(r);
        const auto q = random_floats(10 * group * head_dim, 3);
        const float scale = 1.0f / std::sqrt(static_cast<float>(head_dim));
        const auto out = attend_rows(cache, rows, positions, q, group, scale);
        for (size_t r = 0; r < rows.size(); ++r)
          for (int g = 0; g < group; ++g) {
            const size_t at = (r * static_cast<size_t>(group) + static_cast<size_t>(g)) *
                              static_cast<size_t>(head_dim);
            const auto want = cache.reference(q.data() + at, positions[r], scale);
            for (size_t c = 0; c < want.size(); ++c)
              ASSERT_NEAR(out[at + c], want[c], 1e-5)
                  << "head_dim " << head_dim << " group " << group << " row " << r;
          }
      }
}

TEST(Attention, RowsDoNotDependOnTheCall) {
  const Cache cache(300, 64, 2.0f);
  const std::vector<int32_t> positions{5, 100, 130, 131, 299};
  const auto q = random_floats(5 * 2 * 64, 4);
  const auto together = attend_rows(cache, {0, 1, 2, 3, 4}, positions, q, 2, 0.125f);
  for (int32_t row = 0; row < 5; ++row) {
    const auto alone = attend_rows(cache, {row}, positions, q, 2, 0.125f);
    for (size_t i = 0; i < 128; ++i) {
      const size_t at = static_cast<size_t>(row) * 128 + i;
      ASSERT_EQ(alone[at], together[at]) << "row " << row;
    }
  }
}

TEST(Attention, ShowsNan) {
  Cache cache(40, 8, 1.0f);
  cache.plain_keys[5 * 8] = NAN;
  store_key_value(cache.plain_keys.data() + 40, cache.plain_values.data() + 40, 8, 5,
                  cache.keys.data(), cache.values.data());
  const auto q = random_floats(2 * 8, 5);
  const auto out = attend_rows(cache, {0, 1}, {4, 30}, q, 1, 0.3f);
  for (size_t i = 0; i < 8; ++i) {
    EXPECT_FALSE(std::isnan(out[i]));  // stands before the damaged position
    EXPECT_TRUE(std::isnan(out[8 + i]));
  }
}

}  // namespace
}  // namespace thermoe::cpu
