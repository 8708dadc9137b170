// Routing on the GPU: time from router logits to the finished plan, a launch each, replayed from
// CUDA graphs of 20 launches with different logits (softmax of normal logits, standard
// deviation 1.5).
//   gpu_routing [--json FILE] [--commit HASH]
// Paths: topk (no prices), token (each token by itself at slope and marginal prices), batch (the
// routing program; "half": at the opening price at which about half of the opened experts close,
// "small": a tenth of it). bench/gpu_routing_peers.py times what PyTorch needs for top-k and order.
#include <CLI/CLI.hpp>
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <fstream>
#include <nlohmann/json.hpp>
#include <random>
#include <string>
#include <vector>

#include "gpu_timing.h"
#include "kernels/cuda/cuda_resources.h"
#include "kernels/cuda/routing.h"
#include "thermoe/error.h"

namespace {

using thermoe::cuda::check;
using thermoe::cuda::DeviceArray;
using thermoe::cuda::DeviceBytes;
using thermoe::cuda::Gate;
using thermoe::cuda::GpuRoutingReport;
using thermoe::cuda::RoutingLaunch;
using thermoe::cuda::RoutingMode;

constexpr int kLaunches = 20, kReplays = 100, kWarmUps = 10;

struct BenchCase {
  std::string path;
  RoutingMode mode;
  int tokens, experts, k;
  int variants;            // instances an expert
  double price_of_half;    // the opening price in that at which half of the experts close
  const char* price_name;  // for the table
};

struct BenchTimes {
  double median_us, low_us, high_us;  // of a launch; 10th and 90th percentile of the replays
  double closings, rounds, distinct, top_k_distinct;
  float open_price;
};

DeviceArray<float> normal_logits(int tokens, int experts, uint32_t seed) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal(0.0f, 1.5f);
  std::vector<float> logits(static_cast<size_t>(tokens) * static_cast<size_t>(experts));
  for (float& logit : logits) logit = normal(random);
  return DeviceArray<float>(logits);
}

// Everything on the device for one case.
class BenchRouter {
 public:
  explicit BenchRouter(const BenchCase& bench) : bench_(bench) {
    const size_t pairs = static_cast<size_t>(bench.tokens) * static_cast<size_t>(bench.k);
    const int count = bench.experts * bench.variants;
    ids_ = DeviceArray<int32_t>(pairs);
    instances_ = DeviceArray<int32_t>(pairs);
    packed_ = DeviceArray<int32_t>(pairs);
    weights_ = DeviceArray<float>(pairs);
    changed_ = DeviceArray<uint8_t>(static_cast<size_t>(bench.tokens));
    offsets_ = DeviceArray<int32_t>(static_cast<size_t>(count) + 1);
    report_ = DeviceArray<GpuRoutingReport>(1);
    open_ = DeviceArray<float>(std::vector<float>(static_cast<size_t>(count), 0.0f));
    slope_ = DeviceArray<float>(std::vector<float>(static_cast<size_t>(count), 0.001f));
    for (int n = 0; n < kLaunches; ++n)
      logits_.push_back(normal_logits(bench.tokens, bench.experts, static_cast<uint32_t>(n)));
    launch_.input = {.scores = nullptr,
                     .tokens = bench.tokens,
                     .experts = bench.experts,
                     .k = bench.k,
                     .gate = Gate::kSoftmax};
    if (bench.variants > 1) lay_out();
    launch_.prices = {.open = open_.data(), .slope = nullptr};
    if (bench.mode == RoutingMode::kPerToken) {
      launch_.prices.slope = slope_.data();
      launch_.prices.marginal = slope_.data();
    }
    launch_.mode = bench.mode;
    launch_.output = {ids_.data(),     instances_.data(), weights_.data(), changed_.data(),
                      offsets_.data(), packed_.data(),    report_.data()};
    workspace_ = DeviceBytes(thermoe::cuda::routing_workspace_bytes(launch_));
    check(cudaStreamCreate(&stream_), "making a stream");
  }
  ~BenchRouter() { cudaStreamDestroy(stream_); }
  BenchRouter(const BenchRouter&) = delete;
  BenchRouter& operator=(const BenchRouter&) = delete;

  BenchTimes run() {
    BenchTimes times{};
    if (bench_.mode == RoutingMode::kBatch) {
      times.open_price = static_cast<float>(price_of_half() * bench_.price_of_half);
      set_open(times.open_price);
    }
    count(times);
    time(times);
    return times;
  }

 private:
  // The second variant reads half the bytes and keeps 99 % of the utility.
  void lay_out() {
    std::vector<int32_t> first, expert;
    std::vector<double> kept;
    for (int e = 0; e < bench_.experts; ++e) {
      first.push_back(e * bench_.variants);
      for (int v = 0; v < bench_.variants; ++v) {
        expert.push_back(e);
        kept.push_back(v == 0 ? 1.0 : 0.99);
      }
    }
    first.push_back(static_cast<int32_t>(expert.size()));
    first_ = DeviceArray<int32_t>(first);
    expert_ = DeviceArray<int32_t>(expert);
    kept_ = DeviceArray<double>(kept);
    launch_.instances = {.count = static_cast<int32_t>(expert.size()),
                         .first = first_.data(),
                         .expert = expert_.data(),
                         .kept_best = nullptr,
                         .kept_instance = kept_.data(),
                         .kept_even = true};
  }

  void set_open(float price) {
    std::vector<float> prices(open_.size());
    for (size_t i = 0; i < prices.size(); ++i)
      prices[i] = i % static_cast<size_t>(bench_.variants) == 0 ? price : 0.5f * price;
    check(cudaMemcpy(open_.data(), prices.data(), prices.size() * sizeof(float),
                     cudaMemcpyHostToDevice),
          "copying prices");
  }

  GpuRoutingReport report_of(int n, RoutingMode mode) {
    RoutingLaunch launch = launch_;
    launch.mode = mode;
    launch.input.scores = logits_[static_cast<size_t>(n)].data();
    DeviceBytes workspace(thermoe::cuda::routing_workspace_bytes(launch));
    check(thermoe::cuda::launch_routing(launch, workspace.data(), workspace.bytes(), stream_),
          "routing");
    check(cudaStreamSynchronize(stream_), "routing");
    return report_.host().front();
  }

  double distinct_at(float price) {
    set_open(price);
    double sum = 0;
    for (int n = 0; n < 4; ++n) sum += report_of(n, RoutingMode::kBatch).distinct_experts;
    return sum;
  }

  // By bisection over the exponent; nothing closes at 2^-20.
  double price_of_half() {
    double none = -20, all = 6;
    const double half = 0.5 * (distinct_at(0.0f));
    if (distinct_at(64.0f) > half) return 64.0;
    for (int step = 0; step < 20; ++step) {
      const double middle = 0.5 * (none + all);
      (distinct_at(static_cast<float>(std::exp2(middle))) > half ? none : all) = middle;
    }
    return std::exp2(0.5 * (none + all));
  }

  void count(BenchTimes& times) {
    for (int n = 0; n < kLaunches; ++n) {
      times.top_k_distinct += report_of(n, RoutingMode::kTopK).distinct_experts;
      const GpuRoutingReport report = report_of(n, bench_.mode);
      thermoe::cuda::check_report(report);
      times.closings += report.closings;
      times.rounds += report.rounds;
      times.distinct += report.distinct_experts;
    }
    for (double* sum : {&times.top_k_distinct, &times.closings, &times.rounds, &times.distinct})
      *sum /= kLaunches;
  }

  void time(BenchTimes& times) {
    const std::vector<double> us =
        thermoe::bench::graph_times_us(stream_, kLaunches, kWarmUps, kReplays, [&](int n) {
          launch_.input.scores = logits_[static_cast<size_t>(n)].data();
          return thermoe::cuda::launch_routing(launch_, workspace_.data(), workspace_.bytes(),
                                               stream_);
        });
    times.median_us = us[us.size() / 2];
    times.low_us = us[us.size() / 10];
    times.high_us = us[us.size() * 9 / 10];
  }

  BenchCase bench_;
  RoutingLaunch launch_;
  std::vector<DeviceArray<float>> logits_;
  DeviceArray<float> open_, slope_, weights_;
  DeviceArray<int32_t> ids_, instances_, packed_, offsets_, first_, expert_;
  DeviceArray<double> kept_;
  DeviceArray<uint8_t> changed_;
  DeviceArray<GpuRoutingReport> report_;
  DeviceBytes workspace_;
  cudaStream_t stream_ = nullptr;
};

std::vector<BenchCase> bench_cases() {
  std::vector<BenchCase> cases;
  for (const int tokens : {1, 8, 16, 32, 64, 256, 1024, 4096, 16384}) {
    cases.push_back({"topk", RoutingMode::kTopK, tokens, 128, 8, 1, 0, "none"});
    cases.push_back({"token", RoutingMode::kPerToken, tokens, 128, 8, 1, 0, "slope"});
  }
  const auto add_batch = [&](int tokens, int experts, int k, int variants) {
    cases.push_back({"batch", RoutingMode::kBatch, tokens, experts, k, variants, 1, "half"});
    cases.push_back({"batch", RoutingMode::kBatch, tokens, experts, k, variants, 0.1, "small"});
  };
  for (const int tokens : {1, 8, 16, 32, 64, 128, 256}) add_batch(tokens, 128, 8, 1);
  cases.push_back({"batch", RoutingMode::kBatch, 16, 128, 8, 1, 0, "zero"});
  add_batch(16, 64, 8, 1);
  add_batch(16, 32, 4, 1);
  for (const int tokens : {1, 16, 64}) add_batch(tokens, 128, 8, 2);
  return cases;
}

nlohmann::json device_json() {
  int device = 0, driver = 0, runtime = 0, clock_khz = 0;
  cudaDeviceProp properties{};
  check(cudaGetDevice(&device), "asking for the device");
  check(cudaGetDeviceProperties(&properties, device), "asking for the device");
  check(cudaDriverGetVersion(&driver), "asking for the driver");
  check(cudaRuntimeGetVersion(&runtime), "asking for the runtime");
  check(cudaDeviceGetAttribute(&clock_khz, cudaDevAttrClockRate, device), "asking for the clock");
  return {{"device", properties.name},       {"cuda_driver", driver},
          {"cuda_runtime", runtime},         {"most_sm_clock_mhz", clock_khz / 1000},
          {"launches_per_graph", kLaunches}, {"replays", kReplays}};
}

int run_benchmark(const std::string& json_path, const std::string& commit) {
  nlohmann::json out = device_json();
  out["commit"] = commit;
  std::printf("%s\n%-6s %6s %4s %3s %3s %-6s %10s %10s %10s %9s %9s %9s\n",
              out["device"].get<std::string>().c_str(), "path", "T", "E", "k", "v", "price",
              "median_us", "p10_us", "p90_us", "closings", "rounds", "distinct");
  for (const BenchCase& bench : bench_cases()) {
    const BenchTimes times = BenchRouter(bench).run();
    std::printf("%-6s %6d %4d %3d %3d %-6s %10.2f %10.2f %10.2f %9.1f %9.2f %9.1f\n",
                bench.path.c_str(), bench.tokens, bench.experts, bench.k, bench.variants,
                bench.price_name, times.median_us, times.low_us, times.high_us, times.closings,
                times.rounds, times.distinct);
    out["cases"].push_back({{"path", bench.path},
                            {"tokens", bench.tokens},
                            {"experts", bench.experts},
                            {"k", bench.k},
                            {"variants", bench.variants},
                            {"price", bench.price_name},
                            {"open_price", times.open_price},
                            {"median_us", times.median_us},
                            {"p10_us", times.low_us},
                            {"p90_us", times.high_us},
                            {"closings", times.closings},
                            {"rounds", times.rounds},
                            {"distinct_experts", times.distinct},
                            {"top_k_distinct_experts", times.top_k_distinct}});
  }
  if (json_path.empty()) return 0;
  std::ofstream file(json_path);
  file << out.dump(1) << '\n';
  return file.good() ? 0 : 1;
}

}  // namespace

int main(int argc, char** argv) {
  CLI::App app("Times the routing kernels");
  std::string json_path, commit;
  app.add_option("--json", json_path, "write the times to this file");
  app.add_option("--commit", commit, "what was built");
  CLI11_PARSE(app, argc, argv);
  try {
    return run_benchmark(json_path, commit);
  } catch (const thermoe::Error& error) {
    std::fprintf(stderr, "gpu_routing: %s\n", error.what());
    return 2;
  }
}
