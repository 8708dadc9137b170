#include "cost/moe_load.h"

#include <gtest/gtest.h>

#include <cmath>
#include <vector>

#include "thermoe/error.h"

namespace thermoe::cost {
namespace {

// The balanced load token by token, as the tables' collector hands it out.
MoeLoad count_balanced(int64_t tokens, int experts, int top_k, int ep) {
  const int64_t stride = (experts + top_k - 1) / top_k;
  std::vector<int64_t> counts(static_cast<size_t>(experts));
  for (int64_t t = 0; t < tokens; ++t)
    for (int64_t i = 0; i < top_k; ++i)
      ++counts[static_cast<size_t>(((tokens < stride ? t * stride / tokens : t) + i * stride) %
                                   experts)];
  MoeLoad load;
  for (int e = 0; e < experts / ep; ++e) {
    const auto count = counts[static_cast<size_t>(e)];
    load.assignments += static_cast<double>(count);
    load.distinct += count > 0 ? 1 : 0;
    load.tile_rows += static_cast<double>((count + 31) / 32 * 32);
  }
  return load;
}

void expect_equal(const MoeLoad& a, const MoeLoad& b, const std::string& what) {
  EXPECT_EQ(a.assignments, b.assignments) << what;
  EXPECT_EQ(a.distinct, b.distinct) << what;
  EXPECT_EQ(a.tile_rows, b.tile_rows) << what;
}

struct Sizes {
  int experts, top_k;
};
constexpr Sizes kSizes[] = {{8, 2}, {16, 1}, {60, 4}, {128, 8}, {512, 10}, {512, 22}, {896, 16}};
constexpr int64_t kTokens[] = {1, 2, 3, 7, 22, 46, 64, 127, 1000, 4096};

TEST(MoeLoad, BalancedIsAsCountedTokenByToken) {
  for (const auto& [experts, top_k] : kSizes)
    for (int64_t tokens : kTokens)
      for (int ep : {1, 2, 4}) {
        const std::string what = std::to_string(tokens) + " on " + std::to_string(experts);
        const MoeLoad load = expected_load(tokens, experts, top_k, ep, 0);
        expect_equal(load, count_balanced(tokens, experts, top_k, ep), what);
      }
}

TEST(MoeLoad, EveryTokenIsAssignedTopKTimes) {
  for (double exponent : {0.0, 0.6, 1.01, 1.2, 2.0})
    for (const auto& [experts, top_k] : kSizes)
      for (int64_t tokens : kTokens) {
        const MoeLoad load = expected_load(tokens, experts, top_k, 1, exponent);
        const double all = static_cast<double>(tokens * top_k);
        EXPECT_NEAR(load.assignments, all, 1e-9 * all);
        EXPECT_LE(load.distinct, std::min<double>(all, experts) + 1e-9);
        EXPECT_GE(load.distinct, 1);
        EXPECT_GE(load.tile_rows, load.assignments * (1 - 1e-12));
        EXPECT_LE(load.tile_rows, load.assignments + kLoadTileRows * load.distinct);
      }
}

// The first device's experts of a balanced load; the busiest of a power law's.
TEST(MoeLoad, SplitOverDevices) {
  for (const auto& [experts, top_k] : kSizes)
    for (double exponent : {0.0, 1.01, 1.2})
      for (int64_t tokens : {4, 64, 4096}) {
        const MoeLoad whole = expected_load(tokens, experts, top_k, 1, exponent);
        MoeLoad last = whole;
        for (int ep : {2, 4}) {
          const MoeLoad part = expected_load(tokens, experts, top_k, ep, exponent);
          EXPECT_LE(part.assignments, last.assignments * (1 + 1e-12));
          EXPECT_LE(part.distinct, experts / ep + 1e-9);
          if (exponent > 0) {
            EXPECT_GE(part.assignments * ep, whole.assignments * (1 - 1e-12)) << experts;
          }
          last = part;
        }
      }
  // Every device gets its share where the tokens go round evenly.
  EXPECT_EQ(expected_load(1024, 128, 8, 4, 0).assignments, 1024 * 8 / 4);
}

// With as many assignments as experts. Steeper still, or with more tokens, nearly all samples lie
// at the law's lower end: an even load.
TEST(MoeLoad, ASteeperPowerLawReadsFewerExperts) {
  for (const auto& [experts, top_k] : {Sizes{128, 8}, {512, 10}, {512, 22}, {896, 16}}) {
    double last = experts;
    for (double exponent : {0.6, 1.01, 1.2, 1.4}) {
      const double distinct = expected_load(experts / top_k, experts, top_k, 1, exponent).distinct;
      EXPECT_LT(distinct, last) << experts << " " << exponent;
      last = distinct;
    }
    EXPECT_LT(last, 0.6 * experts);
  }
}

// Means of 400 draws by the collector's algorithm (step by step: what exceeds the tokens and what
// rounding leaves goes to the least busy expert, what rounding adds comes from the busiest).
TEST(MoeLoad, PowerLawsAreTheCollectors) {
  struct Expected {
    int64_t tokens;
    int experts, top_k;
    double exponent, distinct;
  };
  for (const Expected& e : {Expected{2, 8, 2, 1.2, 3.20},
                            {4, 16, 1, 1.01, 3.94},
                            {16, 16, 1, 1.2, 7.74},
                            {4, 128, 8, 1.01, 31.81},
                            {16, 128, 8, 1.01, 64.95},
                            {16, 128, 8, 1.2, 59.14},
                            {64, 128, 8, 1.01, 115.24},
                            {256, 128, 8, 1.2, 127.91},
                            {16, 512, 10, 1.2, 133.18},
                            {64, 512, 10, 1.01, 331.54},
                            {32, 512, 22, 1.2, 372.72}}) {
    const double distinct = expected_load(e.tokens, e.experts, e.top_k, 1, e.exponent).distinct;
    EXPECT_NEAR(distinct / e.distinct, 1, 0.05) << e.tokens << " on " << e.experts;
  }
  // As the tables show: four tokens cost what a balanced load of four does.
  EXPECT_GT(expected_load(4, 128, 8, 1, 1.01).distinct, 31);
}

TEST(MoeLoad, MoreTokensReadNoFewerExperts) {
  for (double exponent : {0.0, 1.01, 1.2}) {
    double last = 0;
    for (int64_t tokens = 1; tokens <= 4096; tokens *= 2) {
      const double distinct = expected_load(tokens, 128, 8, 1, exponent).distinct;
      // A draw's noise, where nearly every expert is read already.
      EXPECT_GE(distinct, last * 0.97) << tokens << " " << exponent;
      last = distinct;
    }
    EXPECT_GT(last, 100);
  }
}

// What the cache answers, and what is computed anew after it was emptied by many others.
TEST(MoeLoad, IsDeterministic) {
  const MoeLoad first = expected_load(77, 64, 8, 2, 1.2);
  expect_equal(expected_load(77, 64, 8, 2, 1.2), first, "cached");
  for (int64_t tokens = 1; tokens <= (1 << 16); ++tokens) expected_load(tokens, 1, 1, 1, 0);
  expect_equal(expected_load(77, 64, 8, 2, 1.2), first, "computed again");
}

TEST(MoeLoad, NamesOfDistributions) {
  EXPECT_EQ(load_exponent("balanced"), 0);
  EXPECT_EQ(load_exponent("power_law_1.01"), 1.01);
  EXPECT_EQ(load_exponent("power_law_0.8"), 0.8);
  for (const char* name : {"", "even", "Balanced", "balanced ", "power_law_", "power_law_x",
                           "power_law_1.2x", "power_law_-1", "power_law_0", "power_law_1",
                           "power_law_nan", "power_law_inf", "power_law_1e200"}) {
    try {
      load_exponent(name);
      ADD_FAILURE() << name;
    } catch (const InvalidArgument& error) {
      const std::string what = error.what();
      EXPECT_NE(what.find("\"" + std::string(name) + "\""), std::string::npos) << what;
      EXPECT_NE(what.find("power_law_<exponent>"), std::string::npos) << what;
    }
  }
}

TEST(MoeLoad, RefusesImpossibleSizes) {
  EXPECT_THROW(expected_load(0, 8, 2, 1, 0), InvalidArgument);
  EXPECT_THROW(expected_load(-4, 8, 2, 1, 1.2), InvalidArgument);
  EXPECT_THROW(expected_load(1, 0, 1, 1, 0), InvalidArgument);
  EXPECT_THROW(expected_load(1, 8, 0, 1, 0), InvalidArgument);
  EXPECT_THROW(expected_load(1, 8, 9, 1, 0), InvalidArgument);
  EXPECT_THROW(expected_load(1, 8, 2, 0, 0), InvalidArgument);
  EXPECT_THROW(expected_load(1, 8, 2, 3, 0), InvalidArgument);
}

}  // namespace
}  // namespace thermoe::cost
