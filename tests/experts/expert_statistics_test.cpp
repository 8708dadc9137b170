// The statistics of one layer's experts against plain float64.
#include "experts/expert_statistics.h"

#include <gtest/gtest.h>

#include <algorithm>

#include "experts/direct_statistics.h"

namespace thermoe {
namespace {

using test::DenseExpert;
using test::random_floats;
using test::random_weight;
using test::SeenRow;
using test::StoredWeight;

class Collector : public PlanObserver {
 public:
  Collector(ExpertStatistics& statistics, ThreadPool& pool, std::vector<int32_t> sampled)
      : statistics_(statistics), pool_(pool), sampled_(std::move(sampled)) {}
  void on_plan(int, const RoutingPlan&) override {}
  void on_layer(const LayerPass& pass) override {
    ids = pass.plan.ids;
    statistics_.add(pass, sampled_, pool_, workspace_);
  }
  std::vector<int32_t> ids;

 private:
  ExpertStatistics& statistics_;
  ThreadPool& pool_;
  std::vector<int32_t> sampled_;
  StatisticsWorkspace workspace_;
};

struct Shape {
  DType dtype;
  int experts, k;
  int64_t hidden, inter, rows, step;  // every step-th row is sampled
};

struct Layer {
  explicit Layer(const Shape& s)
      : shape(s),
        router(random_weight(s.dtype, s.experts, s.hidden, 7, 0.3f)),
        x(random_floats(s.rows * s.hidden, 5)) {
    for (int e = 0; e < s.experts; ++e) {
      const auto seed = static_cast<uint32_t>(10 * e);
      weights.push_back({random_weight(s.dtype, s.inter, s.hidden, seed + 1, 0.2f),
                         random_weight(s.dtype, s.inter, s.hidden, seed + 2, 0.2f),
                         random_weight(s.dtype, s.hidden, s.inter, seed + 3, 0.2f)});
    }
  }

  // Two passes over the same rows; what was seen goes to `seen`.
  LayerCalibration measure(int threads, std::vector<SeenRow>& seen) const {
    std::vector<SimpleExpert> experts;
    for (const DenseExpert& w : weights)
      experts.emplace_back(w.gate.view(), w.up.view(), w.down.view());
    MoeLayer layer(router.view(), std::move(experts), {shape.k, true, 3});
    std::vector<int32_t> sampled;
    for (int64_t r = 0; r < shape.rows; r += shape.step) sampled.push_back(static_cast<int32_t>(r));
    ThreadPool pool(threads);
    ExpertStatistics statistics(shape.experts);
    Collector collector(statistics, pool, sampled);
    TopKPolicy policy;
    std::vector<float> out(x.size());
    const RowGroup groups[] = {{0, 1}, {1, shape.rows - 1}};
    seen.clear();
    for (int pass = 0; pass < 2; ++pass) {
      layer.forward(ConstMatrix(x.data(), shape.rows, shape.hidden), groups, policy, nullptr,
                    Matrix(out.data(), shape.rows, shape.hidden), pool, &collector);
      for (int64_t r = 0; r < shape.rows; ++r)
        seen.push_back(
            {{x.begin() + r * shape.hidden, x.begin() + (r + 1) * shape.hidden},
             {collector.ids.begin() + r * shape.k, collector.ids.begin() + (r + 1) * shape.k},
             r % shape.step == 0});
    }
    return statistics.result();
  }

  Shape shape;
  StoredWeight router;
  std::vector<float> x;
  std::vector<DenseExpert> weights;
};

TEST(ExpertStatistics, AgreeWithFloat64WhateverTheThreads) {
  // 50 experts go through sgemm, 70 rows make two blocks, 2 rows leave experts without a token.
  for (const Shape& shape :
       {Shape{DType::kBf16, 5, 2, 33, 13, 9, 1}, Shape{DType::kF32, 50, 3, 40, 20, 70, 1},
        Shape{DType::kF16, 8, 3, 64, 32, 20, 3}, Shape{DType::kBf16, 12, 2, 48, 16, 2, 1}}) {
    const Layer layer(shape);
    std::vector<SeenRow> seen;
    const LayerCalibration got = layer.measure(2, seen);
    test::expect_near(got, test::direct_statistics(layer.weights, seen));
    if (shape.rows * shape.k < shape.experts) {
      EXPECT_EQ(*std::min_element(got.load_frac.begin(), got.load_frac.end()), 0.0f);
    }
    for (const int threads : {1, 4}) {
      const LayerCalibration other = layer.measure(threads, seen);
      EXPECT_EQ(got.output_norm, other.output_norm) << threads << " threads";
      EXPECT_EQ(got.output_square, other.output_square) << threads << " threads";
      EXPECT_EQ(got.similarity, other.similarity) << threads << " threads";
    }
  }
}

TEST(ExpertStatistics, AnExpertThatSaysNothingIsLikeNoOther) {
  Layer layer({DType::kF32, 4, 2, 32, 16, 6, 1});
  std::fill(layer.weights[1].down.floats.begin(), layer.weights[1].down.floats.end(), 0.0f);
  std::vector<SeenRow> seen;
  const LayerCalibration got = layer.measure(1, seen);
  EXPECT_EQ(got.output_norm[1], 0.0f);
  for (size_t e = 0; e < 4; ++e) EXPECT_EQ(got.similarity[4 + e], e == 1 ? 1.0f : 0.0f);
}

}  // namespace
}  // namespace thermoe
