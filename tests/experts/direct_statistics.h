// What ExpertStatistics promises, computed the plain way in float64: every expert on every row.
#pragma once

#include <gtest/gtest.h>

#include <numeric>
#include <vector>

#include "kernels/reference.h"
#include "thermoe/expert_calibration.h"

namespace thermoe::test {

struct DenseExpert {
  StoredWeight gate, up, down;
};

// A layer's rows: their input, the experts they went to, and whether every expert is to run.
struct SeenRow {
  std::vector<float> x;
  std::vector<int32_t> ids;
  bool sampled = true;
};

inline double product(const std::vector<double>& a, const std::vector<double>& b) {
  return std::inner_product(a.begin(), a.end(), b.begin(), 0.0);
}

inline LayerCalibration direct_statistics(const std::vector<DenseExpert>& experts,
                                          const std::vector<SeenRow>& rows) {
  const size_t count = experts.size();
  std::vector<double> load(count), norm(count), square(count), all(count), all_square(count),
      cosine(count * count);
  double pairs = 0, sampled = 0;
  for (const SeenRow& row : rows) {
    std::vector<std::vector<double>> outputs;
    for (const DenseExpert& e : experts)
      outputs.push_back(expert(row.x.data(), e.gate, e.up, e.down));
    for (const int32_t id : row.ids) {
      const size_t e = static_cast<size_t>(id);
      const double length = std::sqrt(product(outputs[e], outputs[e]));
      load[e] += 1, norm[e] += length, square[e] += length * length, pairs += 1;
    }
    if (!row.sampled) continue;
    sampled += 1;
    for (size_t a = 0; a < count; ++a) {
      const double length = std::sqrt(product(outputs[a], outputs[a]));
      all[a] += length, all_square[a] += length * length;
      for (size_t b = 0; b < count; ++b)
        cosine[a * count + b] +=
            product(outputs[a], outputs[b]) / (length * std::sqrt(product(outputs[b], outputs[b])));
    }
  }
  LayerCalibration layer;
  for (size_t e = 0; e < count; ++e) {
    const bool chosen = load[e] > 0;
    layer.load_frac.push_back(static_cast<float>(load[e] / pairs));
    layer.output_norm.push_back(static_cast<float>(chosen ? norm[e] / load[e] : all[e] / sampled));
    layer.output_square.push_back(
        static_cast<float>(chosen ? square[e] / load[e] : all_square[e] / sampled));
    for (size_t b = 0; b < count; ++b)
      layer.similarity.push_back(static_cast<float>(cosine[e * count + b] / sampled));
  }
  return layer;
}

inline void expect_near(const LayerCalibration& got, const LayerCalibration& want) {
  ASSERT_EQ(got.load_frac, want.load_frac);
  ASSERT_EQ(got.output_norm.size(), want.output_norm.size());
  ASSERT_EQ(got.output_square.size(), want.output_square.size());
  ASSERT_EQ(got.similarity.size(), want.similarity.size());
  const size_t count = got.output_norm.size();
  for (size_t e = 0; e < count; ++e) {
    EXPECT_NEAR(got.output_norm[e], want.output_norm[e], 1e-5 * want.output_norm[e]) << e;
    EXPECT_NEAR(got.output_square[e], want.output_square[e], 2e-5 * want.output_square[e]) << e;
    EXPECT_EQ(got.similarity[e * count + e], 1.0f);
    for (size_t b = 0; b < count; ++b) {
      EXPECT_NEAR(got.similarity[e * count + b], want.similarity[e * count + b], 1e-5)
          << e << " and " << b;
      EXPECT_EQ(got.similarity[e * count + b], got.similarity[b * count + e]);
    }
  }
}

}  // namespace thermoe::test
