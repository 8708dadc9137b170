// The routing kernels against the CPU's policies, on given scores: the plans are equal bit for bit.
#include <cstring>
#include <initializer_list>

#include "kernels/cuda/gpu.h"
#include "kernels/cuda/routing_cases.h"
#include "thermoe/adaptive_router.h"

namespace thermoe::cuda {
namespace {

using test::GpuCase;
using test::GpuPlan;
using test::GpuRouter;
using GpuRouting = test::GpuTest;

RoutingPlan climbed_plan(const GpuCase& batch) {
  AdaptiveRouterSettings settings;
  settings.utility = batch.utility;
  settings.search = AdaptiveRouterSettings::Search::kClimb;
  RoutingPlan plan;
  AdaptiveRouter(settings).route(batch.request(), plan);
  return plan;
}

RoutingPlan plain_plan(const GpuCase& batch) {
  RoutingPlan plan;
  TopKPolicy().route(batch.request(), plan);
  return plan;
}

void expect_same(const GpuPlan& gpu, const RoutingPlan& cpu, const std::string& name) {
  EXPECT_EQ(gpu.ids, cpu.ids) << name;
  EXPECT_EQ(gpu.instances, cpu.instances) << name;
  EXPECT_EQ(gpu.changed, cpu.changed) << name;
  EXPECT_EQ(gpu.offsets, cpu.offsets) << name;
  EXPECT_EQ(gpu.packed, cpu.packed) << name;
  ASSERT_EQ(gpu.weights.size(), cpu.weights.size()) << name;
  EXPECT_EQ(std::memcmp(gpu.weights.data(), cpu.weights.data(), gpu.weights.size() * sizeof(float)),
            0)
      << name;
  EXPECT_EQ(gpu.report.bad_token, -1) << name;
  EXPECT_EQ(gpu.report.changed_tokens, cpu.report.changed_tokens) << name;
  EXPECT_EQ(gpu.report.distinct_experts, cpu.report.distinct_experts) << name;
  EXPECT_EQ(gpu.report.distinct_instances, cpu.report.distinct_instances) << name;
}

int one_of(std::initializer_list<int> values, std::mt19937& random) {
  return *(values.begin() + random() % values.size());
}

void set_prices(GpuCase& batch, float size, bool sloped, std::mt19937& random) {
  std::uniform_real_distribution<float> uniform(0.5f, 1.5f);
  const bool even = random() % 2 == 0;
  for (int i = 0; i < batch.instances(); ++i) {
    const float read = batch.layout ? batch.layout->variant_of(i).read_frac : 1.0f;
    const float open = size * read * (even ? 1.0f : uniform(random));
    batch.prices.open.push_back(random() % 20 == 0 ? 0.0f : open);
    if (sloped) batch.prices.slope.push_back(0.05f * size * uniform(random));
  }
}

GpuCase random_case(uint32_t seed) {
  std::mt19937 random(seed);
  GpuCase batch;
  batch.tokens = one_of({1, 2, 7, 16, 16, 33, 64, 100, 256}, random);
  batch.experts = one_of({8, 32, 60, 128, 128, 256, 512}, random);
  batch.k = std::min(batch.experts, one_of({1, 2, 4, 8, 8, 10, 16}, random));
  batch.scores = test::gate_scores(batch.tokens, batch.experts, random);
  const int levels = one_of({0, 0, 16, 200}, random);
  if (levels > 0) test::quantize(batch.scores, batch.experts, levels);
  batch.renormalize = random() % 4 != 0;
  if (random() % 3 == 0) batch.layout = test::varied_layout(batch.experts, 1024, random);
  batch.utility.power = static_cast<float>(one_of({4, 4, 3, 2}, random)) / 2;
  if (random() % 5 == 0) {
    std::uniform_real_distribution<float> uniform(0.5f, 1.5f);
    batch.utility.scale.emplace_back();
    for (int e = 0; e < batch.experts; ++e) batch.utility.scale[0].push_back(uniform(random));
  }
  constexpr float kSizes[] = {0.0f, 1e-9f, 0.01f, 0.05f, 0.1f, 0.2f, 0.2f, 1.0f, 100.0f};
  const float size = kSizes[random() % std::size(kSizes)];
  const bool sloped = random() % 3 == 0;
  set_prices(batch, size, sloped, random);
  batch.name = "seed " + std::to_string(seed) + ": T " + std::to_string(batch.tokens) + ", E " +
               std::to_string(batch.experts) + ", k " + std::to_string(batch.k) + ", I " +
               std::to_string(batch.instances()) + ", price " + std::to_string(size) +
               (sloped ? ", slopes" : "") + ", levels " + std::to_string(levels) + ", power " +
               std::to_string(batch.utility.power);
  return batch;
}

TEST_F(GpuRouting, TopKIsTheCpus) {
  for (uint32_t seed = 0; seed < 200; ++seed) {
    const GpuCase batch = random_case(seed);
    expect_same(GpuRouter(batch, RoutingMode::kTopK).run(), plain_plan(batch), batch.name);
    if (HasFailure()) return;
  }
}

TEST_F(GpuRouting, WholeBatchIsTheCpusClimb) {
  int64_t closings = 0, rounds = 0;
  for (uint32_t seed = 0; seed < 600; ++seed) {
    const GpuCase batch = random_case(seed);
    const RoutingPlan cpu = climbed_plan(batch);
    const GpuPlan gpu = GpuRouter(batch, RoutingMode::kBatch).run();
    expect_same(gpu, cpu, batch.name);
    EXPECT_NEAR(gpu.report.cost, cpu.report.cost, 1e-9 * (1 + cpu.report.cost)) << batch.name;
    if (cpu.report.changed_tokens > 0) {
      EXPECT_NEAR(gpu.report.utility, cpu.report.utility, 1e-9 * batch.tokens) << batch.name;
    }
    if (HasFailure()) return;
    closings += gpu.report.closings;
    rounds += gpu.report.rounds;
  }
  EXPECT_GT(closings, 1000);  // the cases are worth something
  EXPECT_GT(closings, rounds);
}

TEST_F(GpuRouting, WithoutPricesTheWholeBatchIsTopK) {
  for (uint32_t seed = 0; seed < 100; ++seed) {
    GpuCase batch = random_case(seed);
    batch.layout.reset();
    batch.prices = {};
    expect_same(GpuRouter(batch, RoutingMode::kBatch).run(), plain_plan(batch), batch.name);
    expect_same(GpuRouter(batch, RoutingMode::kPerToken).run(), plain_plan(batch), batch.name);
    if (HasFailure()) return;
  }
}

// Where opening costs nothing, the program's plan is each token's own best.
TEST_F(GpuRouting, TokensByThemselvesTakeWhatIsBestAtSlopes) {
  for (uint32_t seed = 1000; seed < 1200; ++seed) {
    GpuCase batch = random_case(seed);
    std::mt19937 random(seed);
    batch.prices = {};
    set_prices(batch, 1.0f, true, random);
    batch.prices.open.clear();
    expect_same(GpuRouter(batch, RoutingMode::kPerToken).run(), climbed_plan(batch), batch.name);
    if (HasFailure()) return;
  }
}

GpuCase large_case(int tokens, int experts, bool varied, uint32_t seed) {
  std::mt19937 random(seed);
  GpuCase batch;
  batch.tokens = tokens;
  batch.experts = experts;
  batch.k = 8;
  batch.scores = test::gate_scores(tokens, experts, random);
  if (varied) batch.layout = test::varied_layout(experts, 1024, random);
  batch.name = "T " + std::to_string(tokens) + ", E " + std::to_string(experts);
  return batch;
}

TEST_F(GpuRouting, LargeBatchesAreSpreadOverManyBlocks) {
  for (const int tokens : {33, 64, 65, 257, 1000, 1024, 1025, 4096, 16383, 16384})
    for (const int experts : {32, 60, 128, 512}) {
      if (experts == 512 && tokens > 5000) continue;  // the reference would take long
      const GpuCase batch = large_case(tokens, experts, tokens % 2 == 1, 7);
      GpuRouter router(batch, RoutingMode::kTopK);
      for (int run = 0; run < 3; ++run) expect_same(router.run(), plain_plan(batch), batch.name);
      if (HasFailure()) return;
    }
}

TEST_F(GpuRouting, LargeBatchesTakeWhatIsBestAtMarginalPrices) {
  for (const int tokens : {257, 1000, 4096, 16384})
    for (const bool varied : {false, true}) {
      GpuCase batch = large_case(tokens, 128, varied, 11);
      std::mt19937 random(13);
      // Multiples of 2^-10: their sum is exact.
      std::vector<float> slope, marginal;
      for (int i = 0; i < batch.instances(); ++i) {
        slope.push_back(static_cast<float>(random() % 32) / 1024.0f);
        marginal.push_back(static_cast<float>(random() % 64) / 1024.0f);
        batch.prices.slope.push_back(slope.back() + marginal.back());
      }
      const RoutingPlan cpu = climbed_plan(batch);
      batch.prices.slope = slope;
      GpuRouter router(batch, RoutingMode::kPerToken);
      const DeviceArray<float> on_device(marginal);
      router.launch.prices.marginal = on_device.data();
      const GpuPlan gpu = router.run();
      EXPECT_GT(gpu.report.changed_tokens, 0);
      expect_same(gpu, cpu, batch.name);
      if (HasFailure()) return;
    }
}

// A captured graph reads the prices that are there when it is replayed.
TEST_F(GpuRouting, GraphsSeeNewPrices) {
  GpuCase batch = random_case(3);
  batch.layout.reset();
  batch.tokens = 16;
  batch.experts = 128;
  batch.k = 8;
  std::mt19937 random(5);
  batch.scores = test::gate_scores(16, 128, random);
  batch.utility = {};
  batch.prices = {};
  GpuRouter router(batch, RoutingMode::kBatch);
  cudaStream_t stream = nullptr;
  check(cudaStreamCreate(&stream), "making a stream");
  cudaGraph_t graph = nullptr;
  cudaGraphExec_t executable = nullptr;
  check(cudaStreamBeginCapture(stream, cudaStreamCaptureModeGlobal), "capturing");
  check(router.enqueue(stream), "routing");
  check(cudaStreamEndCapture(stream, &graph), "capturing");
  check(cudaGraphInstantiate(&executable, graph, 0), "making a graph");
  for (const float price : {0.0f, 0.02f, 0.1f, 0.3f, 0.0f}) {
    const std::vector<float> open(128, price);
    batch.prices = {};
    batch.prices.open = open;
    router.upload_open(open);
    router.poison();
    check(cudaDeviceSynchronize(), "poisoning");
    check(cudaGraphLaunch(executable, stream), "replaying");
    check(cudaStreamSynchronize(stream), "replaying");
    expect_same(router.plan(), climbed_plan(batch), "price " + std::to_string(price));
  }
  cudaGraphExecDestroy(executable);
  cudaGraphDestroy(graph);
  cudaStreamDestroy(stream);
}

}  // namespace
}  // namespace thermoe::cuda
