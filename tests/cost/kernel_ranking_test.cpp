// The ranking of kernels: two made-up ones, of which one starts faster and the other multiplies
// faster, at measured token counts and at those of which the ranking was told nothing.
#include "thermoe/kernel_ranking.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <span>

#include "cost/kernel_profile.h"
#include "small_profile.h"
#include "thermoe/error.h"

namespace thermoe {
namespace {

const std::vector<std::string> kTwo = {"made_up", "other"};

CostShape shape_of_curve(const cost::KernelShape& s) {
  CostShape shape;
  shape.name = cost::text_of(s);
  shape.hidden_size = s.hidden_size;
  shape.expert_inter_size = s.inter_size;
  shape.experts = s.experts;
  shape.top_k = s.top_k;
  shape.layers = 1;
  return shape;
}

cost::RooflineParameters other_roofline() { return {45, 1.15, 1.1, 0.4, 0.25, 0.2, 3, 2, 3, 2}; }

double latency_us(const cost::KernelShape& shape, double tokens, size_t which) {
  const auto parameters = which == 0 ? test::small_roofline() : other_roofline();
  return cost::roofline(shape, cost::load_of(shape, tokens), test::small_peaks(), parameters)
      .total_us;
}

// The made-up profile with a second kernel; `known` decides which token counts were measured.
std::filesystem::path write_profile(const char* name, bool (*known)(size_t)) {
  cost::KernelProfile profile = test::small_profile();
  profile.power_profile.clear();
  profile.kernels.push_back(profile.kernels.front());
  profile.kernels.back().kernel = kTwo[1];
  profile.kernels.back().roofline = other_roofline();
  for (size_t k = 0; k < 2; ++k)
    for (cost::MeasuredCurve& curve : profile.kernels[k].curves)
      for (size_t t = 0; t < curve.latency_us.size(); ++t)
        curve.latency_us[t] = known(t) ? latency_us(curve.shape, profile.kernels[k].tokens[t], k)
                                       : std::numeric_limits<double>::quiet_NaN();
  const std::filesystem::path file = std::filesystem::path(testing::TempDir()) / name;
  cost::write_kernel_profile(profile, file);
  return file;
}

struct Count {
  int right = 0, points = 0, first = 0;  // first: where kTwo[0] is the faster
};

// Right: what is ranked first is within 3 % of the faster one.
Count count(const std::filesystem::path& profile, std::span<const double> token_counts) {
  Count result;
  for (const cost::KernelShape& shape : test::small_shapes()) {
    if (shape.tp != 1 || shape.ep != 1) continue;
    const KernelRanking ranking(profile, shape_of_curve(shape), "bf16", kTwo);
    for (const double tokens : token_counts) {
      const auto load = cost::load_of(shape, tokens);
      const auto ranked = ranking.rank({tokens, load.distinct, load.assignments});
      const double us[] = {latency_us(shape, tokens, 0), latency_us(shape, tokens, 1)};
      const double chosen = us[ranked.front().kernel == kTwo[0] ? 0 : 1];
      result.right += chosen <= 1.03 * std::min(us[0], us[1]) ? 1 : 0;
      result.first += us[0] < us[1] ? 1 : 0;
      ++result.points;
    }
  }
  return result;
}

TEST(KernelRanking, ChoosesTheFasterWhereBothWereMeasured) {
  const auto file = write_profile("ranking_all.json", [](size_t) { return true; });
  const Count counted = count(file, test::small_tokens());
  EXPECT_EQ(counted.right, counted.points);
  EXPECT_GT(counted.first, counted.points / 8);  // each is the faster one often enough
  EXPECT_LT(counted.first, 3 * counted.points / 4);
}

TEST(KernelRanking, ChoosesTheFasterBetweenMeasuredPoints) {
  const auto file = write_profile("ranking_held_out.json", [](size_t t) { return t % 3 != 1; });
  const std::vector<double> between = {2, 4, 8, 24, 48, 100, 160, 256, 400, 700, 1500, 2500};
  const Count counted = count(file, between);
  EXPECT_GE(counted.right, 0.95 * counted.points);
}

TEST(KernelRanking, KeepsTheirOrderByLatencyAndSaysWhatItLacks) {
  const CostShape& shape = cost_shape("qwen3-30b-a3b");
  std::vector<std::string> names = kTwo;
  names.push_back("nobodys");
  const auto file = write_profile("ranking_order.json", [](size_t) { return true; });
  const KernelRanking ranking(file, shape, "bf16", names);
  EXPECT_EQ(ranking.unknown(), std::vector<std::string>{"nobodys"});
  for (const double tokens : {1.0, 16.0, 300.0, 4096.0}) {
    const auto ranked = ranking.rank({tokens, std::min(8 * tokens, 128.0), 8 * tokens});
    ASSERT_EQ(ranked.size(), 2u);
    EXPECT_LE(ranked[0].cost.latency_us, ranked[1].cost.latency_us);
    const KernelCostModel model(file, shape, {"bf16", ranked[0].kernel});
    EXPECT_EQ(model.moe_layer({tokens, std::min(8 * tokens, 128.0), 8 * tokens}).latency_us,
              ranked[0].cost.latency_us);
  }
  names = {"nobodys"};
  try {
    KernelRanking(file, shape, "bf16", names);
    FAIL() << "a ranking of nothing";
  } catch (const ProfileMiss& error) {
    EXPECT_NE(std::string(error.what()).find("nobodys"), std::string::npos);
    EXPECT_NE(std::string(error.what()).find(kTwo[0]), std::string::npos);
  }
}

}  // namespace
}  // namespace thermoe
