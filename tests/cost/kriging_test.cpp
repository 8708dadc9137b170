#include "cost/kriging.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <random>

namespace thermoe::cost {
namespace {

constexpr int kOutputs = 3;

// Points in three dimensions, some of a family, with smooth values and a little noise.
struct Data {
  std::vector<KrigingPoint> points;
  Eigen::MatrixXd values;
};

Data make_data(size_t count) {
  std::mt19937 random(5);
  std::uniform_real_distribution<double> place(-2, 2), noise(-0.02, 0.02);
  Data data;
  data.values.resize(static_cast<Eigen::Index>(count), kOutputs);
  for (size_t i = 0; i < count; ++i) {
    const double x = place(random), y = place(random), z = place(random);
    data.points.push_back({{x, y, z}, static_cast<int>(i % 5) - 1});
    for (int o = 0; o < kOutputs; ++o)
      data.values(static_cast<Eigen::Index>(i), o) =
          0.3 * std::sin(x + o) + 0.1 * y - 0.05 * z * z + o + noise(random);
  }
  return data;
}

Covariance covariance() {
  Covariance c;
  c.length = {1.1, 1.7, 2.4};
  return c;
}

double covariance_between(const Covariance& c, const KrigingPoint& a, const KrigingPoint& b,
                          const std::vector<double>& centre) {
  double squares = 0, dot = 0;
  for (size_t j = 0; j < c.length.size(); ++j) {
    squares += std::pow((a.features[j] - b.features[j]) / c.length[j], 2);
    dot += (a.features[j] - centre[j]) * (b.features[j] - centre[j]);
  }
  const bool same = a.family >= 0 && a.family == b.family;
  return c.near * c.near * std::exp(-squares / 2) + c.trend * c.trend * (1 + dot / 9) +
         (same ? c.family * c.family : 0);
}

struct Reference {
  Eigen::VectorXd value;
  double deviation;
};

// The textbook's formula with `centre` and `median` of all the data, by LU of the dense matrix.
Reference predict(const Data& data, const std::vector<size_t>& kept, const Covariance& c,
                  const KrigingPoint& at, bool known_family) {
  std::vector<double> centre(c.length.size(), 0.0);
  for (const KrigingPoint& point : data.points)
    for (size_t j = 0; j < centre.size(); ++j)
      centre[j] += point.features[j] / static_cast<double>(data.points.size());
  Eigen::VectorXd median(kOutputs);
  for (int o = 0; o < kOutputs; ++o) {
    std::vector<double> column(data.values.col(o).begin(), data.values.col(o).end());
    std::sort(column.begin(), column.end());
    median(o) = column[column.size() / 2];
  }
  const auto n = static_cast<Eigen::Index>(kept.size());
  Eigen::MatrixXd matrix(n, n), values(n, kOutputs);
  Eigen::VectorXd k(n);
  for (Eigen::Index i = 0; i < n; ++i) {
    const KrigingPoint& a = data.points[kept[static_cast<size_t>(i)]];
    for (Eigen::Index j = 0; j < n; ++j)
      matrix(i, j) = covariance_between(c, a, data.points[kept[static_cast<size_t>(j)]], centre) +
                     (i == j ? c.noise * c.noise : 0);
    k(i) = covariance_between(c, a, at, centre);
    values.row(i) = data.values.row(static_cast<Eigen::Index>(kept[static_cast<size_t>(i)])) -
                    median.transpose();
  }
  const Eigen::FullPivLU<Eigen::MatrixXd> solver(matrix);
  double own = covariance_between(c, at, at, centre) + c.noise * c.noise;
  if (!known_family) own += c.family * c.family;
  return {median + values.transpose() * solver.solve(k), std::sqrt(own - k.dot(solver.solve(k)))};
}

std::vector<size_t> all_but(size_t count, const std::vector<size_t>& left_out) {
  std::vector<size_t> kept;
  for (size_t i = 0; i < count; ++i)
    if (std::find(left_out.begin(), left_out.end(), i) == left_out.end()) kept.push_back(i);
  return kept;
}

TEST(Kriging, PredictsAsTheDenseFormula) {
  const Data data = make_data(25);
  const Kriging kriging(data.points, data.values, covariance());
  for (int family : {-1, 0, 2})
    for (double x : {-1.5, 0.0, 0.7, 5.0}) {
      const KrigingPoint point{{x, 0.4, -x / 2}, family};
      const Kriging::Prediction found = kriging.at(point);
      const Reference expected = predict(data, all_but(25, {}), covariance(), point, family >= 0);
      EXPECT_LT((found.value - expected.value).norm(), 1e-9);
      EXPECT_NEAR(found.deviation, expected.deviation, 1e-9);
    }
}

TEST(Kriging, LeavesOutOnePointOrAGroup) {
  const Data data = make_data(25);
  const Kriging kriging(data.points, data.values, covariance());
  const std::vector<size_t> group = {3, 8, 13, 20};
  for (size_t i : group) {
    const Kriging::Prediction found = kriging.without(i);
    const Reference expected =
        predict(data, all_but(25, {i}), covariance(), data.points[i], data.points[i].family >= 0);
    EXPECT_LT((found.value - expected.value).norm(), 1e-9) << i;
    // The point's own covariance knows its family, or that it has none.
    if (data.points[i].family >= 0) {
      EXPECT_NEAR(found.deviation, expected.deviation, 1e-9) << i;
    }
  }
  const Eigen::MatrixXd found = kriging.without(group);
  for (size_t i = 0; i < group.size(); ++i) {
    const Reference expected =
        predict(data, all_but(25, group), covariance(), data.points[group[i]], true);
    EXPECT_LT((found.row(static_cast<Eigen::Index>(i)).transpose() - expected.value).norm(), 1e-9);
  }
}

TEST(Kriging, IsExactAtItsPointsWithoutNoise) {
  const Data data = make_data(20);
  Covariance c = covariance();
  c.noise = 1e-6;
  const Kriging kriging(data.points, data.values, c);
  for (size_t i = 0; i < data.points.size(); ++i) {
    const Kriging::Prediction found = kriging.at(data.points[i]);
    const auto row = static_cast<Eigen::Index>(i);
    EXPECT_LT((found.value - data.values.row(row).transpose()).norm(), 1e-4);
    EXPECT_EQ(found.nearest, 1);
  }
}

TEST(Kriging, KnowsLessFarAway) {
  const Data data = make_data(25);
  const Kriging kriging(data.points, data.values, covariance());
  double deviation = 0, nearest = 1;
  for (double x : {0.0, 3.0, 5.0, 8.0}) {
    const Kriging::Prediction found = kriging.at({{x, x, x}, -1});
    EXPECT_GT(found.deviation, deviation);
    EXPECT_LT(found.nearest, nearest);
    deviation = found.deviation;
    nearest = found.nearest;
  }
  EXPECT_LT(nearest, 1e-6);
}

TEST(Kriging, OnePointIsEnough) {
  Eigen::MatrixXd value(1, 1);
  value << 0.7;
  const Kriging kriging({{{1.0, 2.0, 3.0}, 0}}, value, covariance());
  EXPECT_NEAR(kriging.at({{1.0, 2.0, 3.0}, 0}).value(0), 0.7, 1e-12);
  EXPECT_NEAR(kriging.at({{9.0, 9.0, 9.0}, -1}).value(0), 0.7, 1e-12);
}

TEST(Covariance, PartsThereAndBack) {
  Covariance c;
  c.length = {1, 2};
  c.near = 3;
  c.trend = 4;
  c.family = 5;
  c.noise = 6;
  EXPECT_EQ(parts_of(c), (std::vector<double>{1, 2, 3, 4, 5, 6}));
  EXPECT_EQ(parts_of(covariance_from(parts_of(c))), parts_of(c));
}

}  // namespace
}  // namespace thermoe::cost
