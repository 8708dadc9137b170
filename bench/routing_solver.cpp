// Google Benchmark of AdaptiveRouter: the whole route() call, over many batches of realistic
// scores. Arguments: tokens T, experts E, experts per token k, opening price in thousandths.
#include <benchmark/benchmark.h>
#include <time.h>

#include <algorithm>
#include <map>
#include <utility>
#include <vector>

#include "score_batches.h"
#include "thermoe/adaptive_router.h"

namespace {

using thermoe::ExpertLayout;
using thermoe::ExpertPrices;
using thermoe::RoutingGoal;
using thermoe::RoutingPlan;
using thermoe::RoutingRequest;
using thermoe::ScoreBatch;

double quantile(std::vector<double> values, double share) {
  std::sort(values.begin(), values.end());
  return values[static_cast<size_t>(share * static_cast<double>(values.size() - 1))];
}

// Of this thread alone: what else runs on the machine does not count.
double thread_time_us() {
  timespec now{};
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
  return 1e6 * static_cast<double>(now.tv_sec) + 1e-3 * static_cast<double>(now.tv_nsec);
}

const std::vector<ScoreBatch>& batches_of(int tokens, int experts) {
  static std::map<std::pair<int, int>, std::vector<ScoreBatch>> made;
  std::vector<ScoreBatch>& batches = made[{tokens, experts}];
  const uint32_t count = tokens >= 256 ? 20 : 100;
  for (uint32_t seed = static_cast<uint32_t>(batches.size()); seed < count; ++seed)
    batches.push_back(thermoe::random_scores(tokens, experts, seed));
  return batches;
}

// Batches differ from one iteration to the next: a single one would be learnt by heart by the
// branch predictor. Counters: median and 99th percentile of time (microseconds) and of the gap,
// share of plans proven best, share of top-k's experts still read.
void measure(benchmark::State& state, const std::vector<ScoreBatch>& batches,
             RoutingRequest request, bool warm_start = false) {
  thermoe::AdaptiveRouter router({.warm_start = warm_start});
  RoutingPlan plan;
  std::vector<double> times_us, gaps;
  double proven = 0, read = 0, solved = 0;
  size_t next = 0;
  for (auto _ : state) {
    request.scores = batches[next].view();
    const double begin_us = thread_time_us();
    router.route(request, plan);
    times_us.push_back(thread_time_us() - begin_us);
    benchmark::DoNotOptimize(plan.packed.data());
    gaps.push_back(plan.report.gap_frac);
    proven += plan.report.gap_frac == 0.0;
    solved += plan.report.status == thermoe::RoutingStatus::kSolved;
    read += static_cast<double>(plan.report.distinct_experts) / plan.report.top_k_distinct_experts;
    next = (next + 1) % batches.size();
  }
  const double count = static_cast<double>(times_us.size());
  state.counters["median_us"] = quantile(times_us, 0.5);
  state.counters["p99_us"] = quantile(times_us, 0.99);
  state.counters["median_gap_frac"] = quantile(gaps, 0.5);
  state.counters["p99_gap_frac"] = quantile(gaps, 0.99);
  state.counters["proven_frac"] = proven / count;
  state.counters["solved_frac"] = solved / count;
  state.counters["read_frac"] = read / count;
}

void BM_Route(benchmark::State& state) {
  const int tokens = static_cast<int>(state.range(0)), experts = static_cast<int>(state.range(1));
  const ExpertPrices prices =
      ExpertPrices::uniform(experts, static_cast<float>(state.range(3)) / 1000.0f);
  RoutingRequest request;
  request.k = static_cast<int>(state.range(2));
  request.prices = &prices;
  measure(state, batches_of(tokens, experts), request);
}

// The other kinds of program, k = 8. Arguments: tokens, experts.
enum class Kind { kSlopes, kVariableK, kVariants, kDevices, kCapacities, kLeastCost, kBestQuality };

void BM_RouteKind(benchmark::State& state, Kind kind, bool warm_start = false) {
  const int tokens = static_cast<int>(state.range(0)), experts = static_cast<int>(state.range(1));
  ExpertLayout layout = ExpertLayout::single(experts);
  RoutingRequest request;
  request.k = 8;
  if (kind == Kind::kVariants)
    layout = ExpertLayout::with_variants(
        experts, {{.name = "bf16", .error_frac = 0}, {.name = "int4", .error_frac = 0.06f}});
  if (kind == Kind::kDevices) {
    std::vector<thermoe::ExpertInstance> instances;
    for (int e = 0; e < experts; ++e) {
      instances.push_back({.expert = e, .variant = 0, .device = e % 4});
      if (e % 8 == 0) instances.push_back({.expert = e, .variant = 0, .device = (e + 1) % 4});
    }
    layout = ExpertLayout::of_instances(experts, 4, {{.name = "bf16", .error_frac = 0}}, instances);
  }
  if (kind == Kind::kCapacities)
    layout.capacity.assign(static_cast<size_t>(experts), std::max(2, 2 * tokens * 8 / experts));
  const float slope = kind == Kind::kSlopes || kind == Kind::kVariableK ? 0.01f : 0.0f;
  ExpertPrices prices = ExpertPrices::uniform(layout.count(), 0.05f, slope);
  if (kind == Kind::kVariableK) request.min_k = 4;
  if (kind == Kind::kVariants)
    for (size_t i = 1; i < prices.open.size(); i += 2) prices.open[i] = 0.02f;
  if (kind == Kind::kDevices) {
    prices.device_open.assign(prices.open.size(), 0.2f);
    prices.device_slope.assign(prices.open.size(), 0.002f);
    prices.open.assign(prices.open.size(), 0.0f);
  }
  const bool plain = layout.plain();
  if (!plain || kind == Kind::kDevices) request.layout = &layout;
  request.prices = &prices;
  if (kind == Kind::kLeastCost) request.goal = RoutingGoal{RoutingGoal::Kind::kLeastCost, 0.97};
  if (kind == Kind::kBestQuality)
    request.goal = RoutingGoal{RoutingGoal::Kind::kBestQuality, 0.05 * 0.4 * experts};
  measure(state, batches_of(tokens, experts), request, warm_start);
}

void shapes(benchmark::internal::Benchmark* benchmark) {
  for (const auto& [tokens, experts] : {std::pair{1, 128},
                                        {4, 128},
                                        {16, 64},
                                        {16, 128},
                                        {16, 256},
                                        {64, 128},
                                        {64, 256},
                                        {256, 128},
                                        {256, 256},
                                        {1024, 256}})
    for (const int price : {20, 50, 100}) benchmark->Args({tokens, experts, 8, price});
  for (const int k : {2, 4}) benchmark->Args({64, 256, k, 50});
}

void few_shapes(benchmark::internal::Benchmark* benchmark) {
  benchmark->Args({16, 128})->Args({64, 256})->Unit(benchmark::kMicrosecond);
}

BENCHMARK(BM_Route)->Apply(shapes)->Unit(benchmark::kMicrosecond);
BENCHMARK_CAPTURE(BM_RouteKind, slopes, Kind::kSlopes)->Apply(few_shapes);
BENCHMARK_CAPTURE(BM_RouteKind, variable_k, Kind::kVariableK)->Apply(few_shapes);
BENCHMARK_CAPTURE(BM_RouteKind, variants, Kind::kVariants)->Apply(few_shapes);
BENCHMARK_CAPTURE(BM_RouteKind, devices, Kind::kDevices)->Apply(few_shapes);
BENCHMARK_CAPTURE(BM_RouteKind, devices_warm, Kind::kDevices, true)->Apply(few_shapes);
BENCHMARK_CAPTURE(BM_RouteKind, capacities, Kind::kCapacities)->Apply(few_shapes);
BENCHMARK_CAPTURE(BM_RouteKind, capacities_warm, Kind::kCapacities, true)->Apply(few_shapes);
BENCHMARK_CAPTURE(BM_RouteKind, least_cost, Kind::kLeastCost)->Apply(few_shapes);
BENCHMARK_CAPTURE(BM_RouteKind, least_cost_warm, Kind::kLeastCost, true)->Apply(few_shapes);
BENCHMARK_CAPTURE(BM_RouteKind, best_quality, Kind::kBestQuality)->Apply(few_shapes);
BENCHMARK_CAPTURE(BM_RouteKind, best_quality_warm, Kind::kBestQuality, true)->Apply(few_shapes);

}  // namespace

BENCHMARK_MAIN();
