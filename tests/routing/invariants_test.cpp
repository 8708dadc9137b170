// What must hold for every kind of routing program: symmetry, monotony, identity, clear errors.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <functional>
#include <limits>
#include <numeric>
#include <string>

#include "brute_force.h"
#include "routing/top_k.h"
#include "thermoe/adaptive_router.h"
#include "thermoe/error.h"

namespace thermoe {
namespace {

constexpr RoutingGoal::Kind kGoals[] = {RoutingGoal::Kind::kPrices, RoutingGoal::Kind::kLeastCost,
                                        RoutingGoal::Kind::kBestQuality};

// Case number n goes through all 48 combinations.
SmallCase any_case(int n, int tokens, int experts, std::mt19937& random) {
  const CaseKinds kinds{.variants = (n & 1) != 0,
                        .devices = (n & 2) != 0,
                        .capacities = (n & 4) != 0,
                        .variable_k = (n & 8) != 0,
                        .measured = n % 3 == 0,
                        .goal = kGoals[n / 16 % 3]};
  return random_case(kinds, tokens, experts, random);
}

RoutingPlan route(const SmallCase& c) {
  AdaptiveRouter router;
  RoutingPlan plan;
  router.route(c.request(), plan);
  return plan;
}

template <typename T>
std::vector<T> part(const std::vector<T>& values, int row, int width) {
  const auto begin = values.begin() + static_cast<std::ptrdiff_t>(row) * width;
  return {begin, begin + width};
}

TEST(Invariants, PermutingTokensPermutesThePlan) {
  std::mt19937 random(21);
  for (int n = 0; n < 192; ++n) {
    const SmallCase c = any_case(n, 12, 10, random);
    std::vector<int> order(static_cast<size_t>(c.batch.tokens));
    std::iota(order.begin(), order.end(), 0);
    std::shuffle(order.begin(), order.end(), random);
    SmallCase moved = c;
    for (int t = 0; t < c.batch.tokens; ++t) {
      const auto row = c.batch.view().row_span(order[static_cast<size_t>(t)]);
      std::copy(row.begin(), row.end(), moved.batch.values.begin() + t * c.batch.experts);
    }
    const RoutingPlan plan = route(c), other = route(moved);
    for (int t = 0; t < c.batch.tokens; ++t) {
      const int from = order[static_cast<size_t>(t)];
      EXPECT_EQ(part(other.instances, t, c.k), part(plan.instances, from, c.k)) << n;
      EXPECT_EQ(part(other.weights, t, c.k), part(plan.weights, from, c.k)) << n;
    }
    EXPECT_EQ(other.report.objective, plan.report.objective) << n;
    // Steps towards the bound add up over tokens, so its last digits may follow their order.
    EXPECT_NEAR(other.report.bound, plan.report.bound, 1e-9 * std::abs(plan.report.bound)) << n;
    EXPECT_EQ(other.report.status, plan.report.status) << n;
  }
}

// Expert e becomes names[e]; what is said of instances moves along.
SmallCase renamed(const SmallCase& c, const std::vector<int>& names,
                  std::vector<size_t>& new_index) {
  SmallCase moved = c;
  const size_t experts = names.size();
  for (int t = 0; t < c.batch.tokens; ++t)
    for (size_t e = 0; e < experts; ++e)
      moved.batch.values[static_cast<size_t>(t) * experts + static_cast<size_t>(names[e])] =
          c.batch.values[static_cast<size_t>(t) * experts + e];
  std::vector<ExpertInstance> instances = c.layout.instances;
  for (ExpertInstance& i : instances) i.expert = names[static_cast<size_t>(i.expert)];
  moved.layout =
      ExpertLayout::of_instances(c.layout.experts, c.layout.devices, c.layout.variants, instances);
  moved.layout.capacity = c.layout.capacity;
  moved.layout.error_frac = c.layout.error_frac;
  new_index.resize(instances.size());
  for (size_t i = 0; i < instances.size(); ++i) {
    const auto same = [&](const ExpertInstance& j) {
      return j.expert == instances[i].expert && j.variant == instances[i].variant &&
             j.device == instances[i].device;
    };
    new_index[i] = static_cast<size_t>(
        std::find_if(moved.layout.instances.begin(), moved.layout.instances.end(), same) -
        moved.layout.instances.begin());
  }
  const auto move = [&](const auto& from, auto& to) {
    for (size_t i = 0; i < from.size(); ++i) to[new_index[i]] = from[i];
  };
  move(c.prices.open, moved.prices.open);
  move(c.prices.slope, moved.prices.slope);
  move(c.prices.device_open, moved.prices.device_open);
  move(c.prices.device_slope, moved.prices.device_slope);
  move(c.layout.capacity, moved.layout.capacity);
  move(c.layout.error_frac, moved.layout.error_frac);
  return moved;
}

TEST(Invariants, PermutingExpertsPermutesThePlan) {
  std::mt19937 random(22);
  for (int n = 0; n < 192; ++n) {
    const SmallCase c = any_case(n, 12, 10, random);
    std::vector<int> names(static_cast<size_t>(c.batch.experts));
    std::iota(names.begin(), names.end(), 0);
    std::shuffle(names.begin(), names.end(), random);
    std::vector<size_t> new_index;
    const SmallCase moved = renamed(c, names, new_index);
    const RoutingPlan plan = route(c), other = route(moved);
    for (size_t s = 0; s < plan.instances.size(); ++s) {
      const int32_t i = plan.instances[s];
      EXPECT_EQ(other.instances[s], i < 0 ? -1 : static_cast<int32_t>(new_index[i])) << n;
      EXPECT_EQ(other.weights[s], plan.weights[s]) << n;
    }
    EXPECT_EQ(other.report.objective, plan.report.objective) << n;
  }
}

TEST(Invariants, ZeroPricesAreTopKForEveryGoalAndVariableK) {
  std::mt19937 random(23);
  for (int n = 0; n < 60; ++n) {
    SmallCase c = any_case(16 * n, 12, 10, random);
    c.min_k = n % 2 == 0 ? 1 : c.k;
    c.goal.limit = 1.0;
    c.prices = ExpertPrices{};
    RoutingPlan expected;
    TopKPolicy().route({.scores = c.batch.view(), .k = c.k}, expected);
    const RoutingPlan plan = route(c);
    EXPECT_EQ(plan.ids, expected.ids);
    EXPECT_EQ(std::memcmp(plan.weights.data(), expected.weights.data(),
                          plan.weights.size() * sizeof(float)),
              0);
    EXPECT_EQ(plan.packed, expected.packed);
    EXPECT_EQ(plan.report.gap_frac, 0.0);
    EXPECT_EQ(plan.report.status, RoutingStatus::kSolved);
  }
}

// A price so small that nothing is worth closing must not change a single bit either.
TEST(Invariants, VanishingPricesAreTopK) {
  for (uint32_t seed = 0; seed < 50; ++seed) {
    const ScoreBatch batch = random_scores(16, 64, seed);
    const ExpertPrices prices = ExpertPrices::uniform(64, 1e-9f);
    RoutingPlan expected, plan;
    TopKPolicy().route({.scores = batch.view(), .k = 8}, expected);
    AdaptiveRouter().route({.scores = batch.view(), .k = 8, .prices = &prices}, plan);
    EXPECT_EQ(plan.ids, expected.ids);
    EXPECT_EQ(plan.weights, expected.weights);
  }
}

TEST(Invariants, RaisingAnOpeningPriceNeverOpensThatExpert) {
  std::mt19937 random(24);
  int closed = 0;
  for (int n = 0; n < 60; ++n) {
    const ScoreBatch batch = random_scores(10, 24, static_cast<uint32_t>(n));
    ExpertPrices prices = ExpertPrices::uniform(24, 0.0f);
    for (float& price : prices.open) price = uniform(random, 0.2f);
    const size_t e = random() % 24;
    bool was_open = true;
    for (float price = 0.0f; price < 1.0f; price += 0.05f) {
      prices.open[e] = price;
      RoutingPlan plan;
      AdaptiveRouter().route({.scores = batch.view(), .k = 4, .prices = &prices}, plan);
      const bool open = plan.load(static_cast<int>(e)) > 0;
      EXPECT_TRUE(was_open || !open) << "expert " << e << " opens at " << price;
      closed += was_open && !open;
      was_open = open;
    }
  }
  EXPECT_GT(closed, 20);
}

TEST(Invariants, ChangedTokensHaveRawSharesAndOthersTheirOwnBits) {
  std::mt19937 random(25);
  int changed = 0;
  for (int n = 0; n < 192; ++n) {
    const SmallCase c = any_case(n, 12, 10, random);
    const RoutingPlan plan = route(c);
    RoutingPlan top_k;
    TopKPolicy().route({.scores = c.batch.view(), .k = c.k}, top_k);
    for (int t = 0; t < plan.tokens; ++t) {
      const bool same = part(plan.ids, t, c.k) == part(top_k.ids, t, c.k);
      EXPECT_EQ(plan.changed[static_cast<size_t>(t)] == 0, same);
      changed += !same;
      if (same) {
        EXPECT_EQ(part(plan.weights, t, c.k), part(top_k.weights, t, c.k));
        continue;
      }
      float mass = 0;
      for (const int32_t e : top_k.token_ids(t)) mass += c.batch.view()(t, e);
      for (int s = 0; s < c.k; ++s) {
        const int32_t e = plan.token_ids(t)[static_cast<size_t>(s)];
        EXPECT_EQ(plan.token_weights(t)[static_cast<size_t>(s)],
                  e < 0 ? 0.0f : c.batch.view()(t, e) / mass);
      }
    }
  }
  EXPECT_GT(changed, 300);
}

// The plan is the same whatever was routed before.
TEST(Invariants, PlansDoNotDependOnHistory) {
  std::mt19937 random(26);
  AdaptiveRouter router;
  RoutingPlan plan;
  for (int n = 0; n < 96; ++n) {
    const SmallCase c = any_case(n, 12, 10, random);
    router.route(c.request(), plan);
    const RoutingPlan fresh = route(c);
    EXPECT_EQ(plan.instances, fresh.instances) << n;
    EXPECT_EQ(plan.weights, fresh.weights) << n;
    EXPECT_EQ(plan.report.bound, fresh.report.bound) << n;
  }
}

std::string message_of(const std::function<void(SmallCase&)>& damage) {
  std::mt19937 random(27);
  SmallCase c = any_case(0, 3, 5, random);
  c.batch = random_scores(3, 5, 1);
  c.k = 2;
  c.min_k = 1;
  c.layout = ExpertLayout::single(5);
  c.prices = ExpertPrices::uniform(5, 0.1f);
  damage(c);
  try {
    route(c);
  } catch (const InvalidArgument& error) {
    return error.what();
  }
  return "";
}

TEST(Invariants, BadRequestsAreNamed) {
  const float nan = std::nanf("");
  const auto says = [](const std::string& message, const char* part_of) {
    return message.find(part_of) != std::string::npos;
  };
  EXPECT_EQ(message_of([](SmallCase&) {}), "");
  for (const float bad : {nan, std::numeric_limits<float>::infinity(), -0.1f})
    EXPECT_TRUE(
        says(message_of([&](SmallCase& c) { c.batch.values[7] = bad; }), "token 1, expert 2"));
  EXPECT_TRUE(says(message_of([](SmallCase& c) { c.batch.tokens = 0; }), "nothing to route"));
  EXPECT_TRUE(says(message_of([](SmallCase& c) { c.k = 6; }), "k is 6"));
  EXPECT_TRUE(says(message_of([](SmallCase& c) { c.min_k = 3; }), "min_k is 3"));
  EXPECT_TRUE(says(message_of([](SmallCase& c) { c.min_k = -1; }), "min_k is -1"));
  EXPECT_TRUE(says(message_of([](SmallCase& c) { c.prices.open[2] = -1; }), "instance 2"));
  EXPECT_TRUE(says(message_of([&](SmallCase& c) { c.prices.open[3] = nan; }), "instance 3"));
  EXPECT_TRUE(says(message_of([](SmallCase& c) { c.prices.slope = {1}; }), "1 slope prices"));
  EXPECT_TRUE(says(message_of([](SmallCase& c) {
                     c.prices.device_open = {1, 1};
                   }),
                   "device opening"));
  EXPECT_TRUE(says(message_of([](SmallCase& c) { c.prices.device_base = {1, 1}; }), "base"));
  EXPECT_TRUE(
      says(message_of([](SmallCase& c) { c.layout = ExpertLayout::single(4); }), "4 experts"));
  EXPECT_TRUE(says(message_of([](SmallCase& c) { c.layout.capacity = {1}; }), "1 capacities"));
  EXPECT_TRUE(says(message_of([](SmallCase& c) {
                     c.layout.capacity = {1, 1, 1, -1, 1};
                   }),
                   "instance 3"));
  for (const double bad : {-0.1, 1.1, std::nan("")})
    EXPECT_TRUE(says(message_of([&](SmallCase& c) {
                       c.goal = {RoutingGoal::Kind::kLeastCost, bad};
                     }),
                     "the goal keeps"));
  for (const double bad : {-0.1, std::nan(""), std::numeric_limits<double>::infinity()})
    EXPECT_TRUE(says(message_of([&](SmallCase& c) {
                       c.goal = {RoutingGoal::Kind::kBestQuality, bad};
                     }),
                     "limit of cost"));
}

TEST(Invariants, ALayerBelowZeroIsNamed) {
  const ScoreBatch batch = random_scores(2, 4, 1);
  RoutingPlan plan;
  try {
    AdaptiveRouter().route({.scores = batch.view(), .k = 2, .layer = -1}, plan);
    FAIL();
  } catch (const InvalidArgument& error) {
    EXPECT_NE(std::string(error.what()).find("layer is -1"), std::string::npos);
  }
}

// Too little room is a status: as few tokens too many as can be, and said by how much.
TEST(Invariants, TooLittleRoomIsAStatus) {
  const ScoreBatch batch = random_scores(4, 3, 2);
  ExpertLayout layout = ExpertLayout::single(3);
  layout.capacity = {3, 2, 2};  // 7 places for 8 pairs
  RoutingPlan plan;
  AdaptiveRouter().route({.scores = batch.view(), .k = 2, .layout = &layout}, plan);
  EXPECT_EQ(plan.report.status, RoutingStatus::kInfeasible);
  EXPECT_EQ(plan.report.limit_excess, 1.0);
  layout.capacity = {3, 3, 2};
  AdaptiveRouter().route({.scores = batch.view(), .k = 2, .layout = &layout}, plan);
  EXPECT_EQ(plan.report.status, RoutingStatus::kSolved);
  for (int i = 0; i < 3; ++i) EXPECT_EQ(plan.load(i), layout.capacity[static_cast<size_t>(i)]);
}

}  // namespace
}  // namespace thermoe
