// Tiles of quantised experts against the experts alone, row by row.
#include "experts/quantized_tasks.h"

#include <gtest/gtest.h>

#include "experts/quantized_experts.h"

namespace thermoe {
namespace {

using test::RandomExpert;

struct TiledLayer {
  TiledLayer(int64_t hidden, int64_t inter, std::vector<int64_t> loads) {
    constexpr int32_t kTokens = 50;
    x = test::random_floats(kTokens * hidden, 3);
    for (size_t i = 0; i < loads.size(); ++i)
      random.emplace_back(hidden, inter, static_cast<uint32_t>(10 * i + 1), 12);
    for (const RandomExpert& one : random) experts.push_back(one.expert());
    for (size_t i = 0; i < loads.size(); ++i) {
      tiles.push_back({&experts[i], i % 3 == 1 ? Planes::kBoth : Planes::kHi,
                       static_cast<int64_t>(tokens.size()), loads[i]});
      for (int64_t row = 0; row < loads[i]; ++row)
        tokens.push_back(static_cast<int32_t>((17 * i + 7 * static_cast<size_t>(row)) % kTokens));
    }
    input = ConstMatrix(x.data(), kTokens, hidden);
  }
  std::vector<float> run(int threads) {
    std::vector<float> outputs(tokens.size() * static_cast<size_t>(input.cols), NAN);
    ThreadPool pool(threads);
    run_quantized_tiles(tiles, input, tokens.data(),
                        Matrix(outputs.data(), static_cast<int64_t>(tokens.size()), input.cols),
                        workspace, pool);
    return outputs;
  }
  std::vector<float> alone() const {
    std::vector<float> outputs(tokens.size() * static_cast<size_t>(input.cols), NAN);
    for (const QuantizedTile& tile : tiles) {
      test::Scratch scratch(tile.expert->scratch_bytes(1));
      for (int64_t p = tile.first; p < tile.first + tile.count; ++p)
        tile.expert->run(input.rows_from(tokens[static_cast<size_t>(p)], 1), tile.planes,
                         Matrix(outputs.data() + p * input.cols, 1, input.cols), scratch.data());
    }
    return outputs;
  }

  std::vector<float> x;
  ConstMatrix input;
  std::vector<RandomExpert> random;
  std::vector<QuantizedExpert> experts;
  std::vector<QuantizedTile> tiles;
  std::vector<int32_t> tokens;
  QuantizedWorkspace workspace;
};

// One shape whose tiles are single tasks, and some that are cut, with odd ends.
TEST(QuantizedTasks, GiveTheExpertsBitsOnAnyNumberOfThreads) {
  const std::vector<int64_t> few{5, 1, 33}, many(40, 2);
  for (const auto& [hidden, inter, loads] : {std::tuple{int64_t{64}, int64_t{32}, many},
                                             {64, 48, few},
                                             {130, 336, few},
                                             {96, 1000, few}}) {
    TiledLayer layer(hidden, inter, loads);
    const std::vector<float> want = layer.alone();
    for (const int threads : {1, 2, 5})
      EXPECT_EQ(layer.run(threads), want) << hidden << " " << inter << " on " << threads;
  }
}

TEST(QuantizedTasks, CanShareTheirWorkspaceAndHaveNothingToDo) {
  TiledLayer large(96, 128, {9, 2}), small(32, 16, {3});
  const std::vector<float> want = small.run(2);
  large.run(2);
  std::swap(small.workspace, large.workspace);
  EXPECT_EQ(small.run(2), want);
  small.tiles.clear();
  for (const float value : small.run(2)) EXPECT_TRUE(std::isnan(value));
}

}  // namespace
}  // namespace thermoe
