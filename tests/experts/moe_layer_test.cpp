// MoeLayer against a naive float64 layer, over shapes, dtypes, plans and thread counts.
#include "thermoe/moe_layer.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <numeric>

#include "kernels/reference.h"
#include "thermoe/error.h"

namespace thermoe {
namespace {

using test::random_floats;
using test::random_weight;
using test::StoredWeight;

struct Weights {
  StoredWeight gate;
  std::vector<StoredWeight> gates, ups, downs;
  int64_t hidden;

  Weights(DType dtype, DType gate_dtype, int experts, int64_t hidden_size, int64_t inter)
      : gate(random_weight(gate_dtype, experts, hidden_size, 99, 0.3f)), hidden(hidden_size) {
    for (int e = 0; e < experts; ++e) {
      const auto seed = static_cast<uint32_t>(10 * e);
      gates.push_back(random_weight(dtype, inter, hidden, seed + 1, 0.2f));
      ups.push_back(random_weight(dtype, inter, hidden, seed + 2, 0.2f));
      downs.push_back(random_weight(dtype, hidden, inter, seed + 3, 0.2f));
    }
  }

  MoeLayer layer(const MoeSettings& settings) const {
    std::vector<SimpleExpert> experts;
    for (size_t e = 0; e < gates.size(); ++e)
      experts.emplace_back(gates[e].view(), ups[e].view(), downs[e].view());
    return MoeLayer(gate.view(), std::move(experts), settings);
  }

  // Softmax, the k highest, weights, sum: as the published models do.
  std::vector<double> reference(const float* x, int k, bool renormalize) const {
    std::vector<double> p;
    for (int64_t e = 0; e < gate.rows; ++e) p.push_back(std::exp(test::dot(x, gate, e)));
    const double sum = std::accumulate(p.begin(), p.end(), 0.0);
    for (double& v : p) v /= sum;
    std::vector<size_t> order(p.size());
    std::iota(order.begin(), order.end(), size_t{0});
    std::stable_sort(order.begin(), order.end(), [&](size_t a, size_t b) { return p[a] > p[b]; });
    order.resize(static_cast<size_t>(k));
    double mass = 0;
    for (size_t e : order) mass += p[e];
    std::vector<double> out(static_cast<size_t>(hidden));
    for (size_t e : order) {
      const auto y = test::expert(x, gates[e], ups[e], downs[e]);
      for (size_t c = 0; c < y.size(); ++c) out[c] += p[e] / (renormalize ? mass : 1.0) * y[c];
    }
    return out;
  }
};

// Sends every token to the same experts.
class Fixed : public RoutingPolicy {
 public:
  explicit Fixed(std::vector<int32_t> ids) : ids_(std::move(ids)) {}
  const char* name() const override { return "fixed"; }
  void route(const RoutingRequest& request, RoutingPlan& plan) override {
    plan.tokens = static_cast<int>(request.scores.rows);
    plan.experts = static_cast<int>(request.scores.cols);
    plan.k = static_cast<int>(ids_.size());
    plan.ids.clear();
    plan.weights.clear();
    for (int t = 0; t < plan.tokens; ++t) {
      plan.ids.insert(plan.ids.end(), ids_.begin(), ids_.end());
      plan.weights.insert(plan.weights.end(), ids_.size(), 0.5f);
    }
    plan.changed.assign(static_cast<size_t>(plan.tokens), 1);
    const bool valid = std::all_of(ids_.begin(), ids_.end(),
                                   [&](int32_t id) { return id >= 0 && id < plan.experts; });
    plan.instances = plan.ids;
    if (valid) pack(plan, plan.experts);
  }

 private:
  std::vector<int32_t> ids_;
};

// Sends the tokens of each call to the next rows of a list; all slots that are used weigh 0.5.
class Listed : public RoutingPolicy {
 public:
  explicit Listed(std::vector<std::vector<int32_t>> rows) : rows_(std::move(rows)) {}
  const char* name() const override { return "listed"; }
  void route(const RoutingRequest& request, RoutingPlan& plan) override {
    plan.tokens = static_cast<int>(request.scores.rows);
    plan.experts = static_cast<int>(request.scores.cols);
    plan.k = static_cast<int>(rows_[next_].size());
    plan.ids.clear();
    plan.weights.clear();
    for (int t = 0; t < plan.tokens; ++t, next_ = (next_ + 1) % rows_.size())
      for (const int32_t id : rows_[next_]) {
        plan.ids.push_back(id);
        plan.weights.push_back(id < 0 ? 0.0f : 0.5f);
      }
    plan.changed.assign(static_cast<size_t>(plan.tokens), 1);
    plan.instances = plan.ids;
    pack(plan, plan.experts);
  }

 private:
  std::vector<std::vector<int32_t>> rows_;
  size_t next_ = 0;
};

class Counter : public PlanObserver {
 public:
  void on_plan(int layer, const RoutingPlan& plan) override {
    layers.push_back(layer);
    tokens.push_back(plan.tokens);
  }
  std::vector<int> layers, tokens;
};

std::vector<float> run(MoeLayer& layer, const std::vector<float>& x, int64_t hidden,
                       std::vector<RowGroup> groups, RoutingPolicy& policy, int threads,
                       PlanObserver* observer = nullptr) {
  ThreadPool pool(threads);
  std::vector<float> out(x.size(), NAN);
  const int64_t rows = static_cast<int64_t>(x.size()) / hidden;
  layer.forward(ConstMatrix(x.data(), rows, hidden), groups, policy, nullptr,
                Matrix(out.data(), rows, hidden), pool, observer);
  return out;
}

TEST(MoeLayer, AgreesWithFloat64) {
  struct Shape {
    int experts, k;
    int64_t hidden, inter, rows;
  };
  for (const DType dtype : {DType::kF32, DType::kF16, DType::kBf16})
    for (const Shape s : {Shape{4, 2, 33, 13, 1},
                          {8, 3, 64, 32, 16},
                          {5, 5, 40, 70, 7},
                          {3, 1, 70, 130, 200},
                          {16, 4, 32, 16, 2}})
      for (const bool renormalize : {false, true}) {
        const Weights weights(dtype, DType::kBf16, s.experts, s.hidden, s.inter);
        MoeLayer layer = weights.layer({s.k, renormalize, 0});
        const auto x = random_floats(s.rows * s.hidden, 5);
        TopKPolicy policy;
        const auto out = run(layer, x, s.hidden, {{0, s.rows}}, policy, 2);
        for (int64_t r = 0; r < s.rows; ++r) {
          const auto want = weights.reference(x.data() + r * s.hidden, s.k, renormalize);
          for (size_t c = 0; c < want.size(); ++c)
            ASSERT_NEAR(out[static_cast<size_t>(r * s.hidden) + c], want[c], 3e-5)
                << name_of(dtype) << " experts " << s.experts << " row " << r;
        }
      }
}

TEST(MoeLayer, GroupsAndThreadsDoNotChangeARow) {
  const Weights weights(DType::kBf16, DType::kF32, 6, 64, 96);
  MoeLayer layer = weights.layer({2, true, 3});
  const int64_t rows = 40;
  const auto x = random_floats(rows * 64, 6);
  TopKPolicy policy;
  Counter counter;
  const auto whole = run(layer, x, 64, {{0, rows}}, policy, 1);
  EXPECT_EQ(whole, run(layer, x, 64, {{0, 1}, {1, 16}, {17, 23}}, policy, 3, &counter));
  EXPECT_EQ(whole, run(layer, x, 64, {{0, rows}}, policy, 2));
  EXPECT_EQ(counter.tokens, (std::vector<int>{1, 16, 23}));
  EXPECT_EQ(counter.layers, (std::vector<int>{3, 3, 3}));
}

// All tokens on one expert: it is cut into tiles of rows and panels of outputs.
TEST(MoeLayer, OneExpertTakesAll) {
  const Weights weights(DType::kBf16, DType::kBf16, 5, 96, 160);
  MoeLayer layer = weights.layer({1, true, 0});
  for (const int64_t rows : {1, 3, 300}) {
    const auto x = random_floats(rows * 96, 7);
    Fixed policy({3});
    const auto out = run(layer, x, 96, {{0, rows}}, policy, 3);
    EXPECT_EQ(out, run(layer, x, 96, {{0, rows}}, policy, 1));
    for (int64_t r = 0; r < rows; r += 50) {
      const auto want =
          test::expert(x.data() + r * 96, weights.gates[3], weights.ups[3], weights.downs[3]);
      for (size_t c = 0; c < want.size(); ++c)
        ASSERT_NEAR(out[static_cast<size_t>(r * 96) + c], 0.5 * want[c], 3e-5);
    }
  }
}

// Tokens with fewer experts, with none, and with more than top_k, in any mixture of groups.
TEST(MoeLayer, UnusedAndMoreSlots) {
  const Weights weights(DType::kBf16, DType::kBf16, 5, 96, 160);
  MoeLayer layer = weights.layer({2, true, 0});
  const std::vector<std::vector<int32_t>> narrow{{2, 0}, {1, -1}, {-1, -1}, {3, 1}, {4, -1}};
  std::vector<std::vector<int32_t>> wide{{0, -1, -1}, {4, 2, 1}, {-1, -1, -1}};
  const int64_t rows = 8;
  const auto x = random_floats(rows * 96, 11);
  for (const bool wide_first : {false, true}) {
    auto rows_of = narrow;
    rows_of.insert(wide_first ? rows_of.begin() : rows_of.end(), wide.begin(), wide.end());
    const std::vector<RowGroup> groups{{0, wide_first ? 3 : 5},
                                       {wide_first ? 3 : 5, wide_first ? 5 : 3}};
    Listed policy(rows_of);
    const auto out = run(layer, x, 96, groups, policy, 3);
    EXPECT_EQ(out, run(layer, x, 96, groups, policy, 1));
    for (int64_t r = 0; r < rows; ++r) {
      std::vector<double> want(96);
      for (const int32_t id : rows_of[static_cast<size_t>(r)]) {
        if (id < 0) continue;
        const size_t e = static_cast<size_t>(id);
        const auto y =
            test::expert(x.data() + r * 96, weights.gates[e], weights.ups[e], weights.downs[e]);
        for (size_t c = 0; c < want.size(); ++c) want[c] += 0.5 * y[c];
      }
      for (size_t c = 0; c < want.size(); ++c)
        ASSERT_NEAR(out[static_cast<size_t>(r * 96) + c], want[c], 3e-5) << "row " << r;
    }
  }
  Listed all_unused({{-1, -1}});
  EXPECT_EQ(run(layer, x, 96, {{0, rows}}, all_unused, 2), std::vector<float>(x.size(), 0.0f));
}

TEST(MoeLayer, RefusesLogitsThatAreNotFinite) {
  const Weights weights(DType::kF32, DType::kF32, 8, 32, 16);
  MoeLayer layer = weights.layer({2, true, 3});
  auto x = random_floats(6 * 32, 8);
  x[5 * 32 + 4] = NAN;
  TopKPolicy policy;
  try {
    run(layer, x, 32, {{0, 6}}, policy, 2);
    FAIL() << "no error";
  } catch (const InvalidArgument& error) {
    EXPECT_EQ(std::string(error.what()).rfind("layer 3: router logit of row 5, expert 0 is ", 0),
              0u)
        << error.what();
  }
  x[5 * 32 + 4] = 0.0f;
  EXPECT_NO_THROW(run(layer, x, 32, {{0, 6}}, policy, 2));  // usable again
}

TEST(MoeLayer, RefusesBadArguments) {
  const Weights weights(DType::kF32, DType::kF32, 4, 32, 16);
  MoeLayer layer = weights.layer({2, true, 0});
  const auto x = random_floats(4 * 32, 9);
  TopKPolicy policy;
  for (const std::vector<RowGroup>& groups : {std::vector<RowGroup>{},
                                              {{0, 3}},
                                              {{0, 5}},
                                              {{1, 3}},
                                              {{0, 2}, {3, 1}},
                                              {{0, 0}, {0, 4}},
                                              {{0, 2}, {1, 3}}})
    EXPECT_THROW(run(layer, x, 32, groups, policy, 1), InvalidArgument);
  EXPECT_THROW(run(layer, x, 16, {{0, 8}}, policy, 1), InvalidArgument);
  Fixed too_few({1}), unknown({1, 4}), negative({-1, 2});
  for (RoutingPolicy* bad : {&too_few, &unknown, &negative})
    EXPECT_THROW(run(layer, x, 32, {{0, 4}}, *bad, 1), InvalidArgument);
  EXPECT_THROW(weights.layer({0, true, 0}), InvalidArgument);
  EXPECT_THROW(weights.layer({5, true, 0}), InvalidArgument);
  EXPECT_THROW(MoeLayer(weights.gate.view(), std::vector<SimpleExpert>{}, {1, true, 0}),
               InvalidArgument);
}

}  // namespace
}  // namespace thermoe
