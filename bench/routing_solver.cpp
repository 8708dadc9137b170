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

using thermoe::ExpertPrices;
using thermoe::RoutingPlan;
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
void BM_Route(benchmark::State& state) {
  const int tokens = static_cast<int>(state.range(0)), experts = static_cast<int>(state.range(1));
  const int k = static_cast<int>(state.range(2));
  const ExpertPrices prices =
      ExpertPrices::uniform(experts, static_cast<float>(state.range(3)) / 1000.0f);
  const std::vector<ScoreBatch>& batches = batches_of(tokens, experts);
  thermoe::AdaptiveRouter router;
  RoutingPlan plan;
  std::vector<double> times_us, gaps;
  double proven = 0, read = 0;
  size_t next = 0;
  for (auto _ : state) {
    const double begin_us = thread_time_us();
    router.route({.scores = batches[next].view(), .k = k, .prices = &prices}, plan);
    times_us.push_back(thread_time_us() - begin_us);
    benchmark::DoNotOptimize(plan.packed.data());
    gaps.push_back(plan.report.gap_frac);
    proven += plan.report.gap_frac == 0.0;
    read += static_cast<double>(plan.report.distinct_experts) / plan.report.top_k_distinct_experts;
    next = (next + 1) % batches.size();
  }
  const double count = static_cast<double>(times_us.size());
  state.counters["median_us"] = quantile(times_us, 0.5);
  state.counters["p99_us"] = quantile(times_us, 0.99);
  state.counters["median_gap_frac"] = quantile(gaps, 0.5);
  state.counters["p99_gap_frac"] = quantile(gaps, 0.99);
  state.counters["proven_frac"] = proven / count;
  state.counters["read_frac"] = read / count;
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

BENCHMARK(BM_Route)->Apply(shapes)->Unit(benchmark::kMicrosecond);

}  // namespace

BENCHMARK_MAIN();
