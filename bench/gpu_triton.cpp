// Triton's kernels beside the CUDA ones, on the same inputs in one run: routing, the experts of
// whole layers with weights from memory, and what a launch costs the host.
//   gpu_triton [--json FILE] [--commit HASH]
#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <chrono>
#include <fstream>
#include <memory>
#include <nlohmann/json.hpp>
#include <random>
#include <vector>

#include "gpu_timing.h"
#include "gpu_work.h"
#include "kernels/cuda/decode_experts.h"
#include "kernels/triton/triton_routing.h"
#include "sweep_points.h"
#include "thermoe/error.h"
#include "thermoe/expert_kernels.h"

namespace {

using namespace thermoe;
using namespace thermoe::bench;

constexpr int kLaunches = 16, kWarmUps = 5, kReplays = 51;
constexpr int kTokenCounts[] = {1, 16, 64, 256, 4096};
constexpr const char* kLayers[] = {"2048x768e128k8", "2048x1024e64k8"};  // Qwen3-30B-A3B, OLMoE

double median_of(const std::vector<double>& sorted) { return sorted[sorted.size() / 2]; }

// A batch of random logits, and room for its plan.
struct RoutingBatch {
  cuda::DeviceArray<float> logits, prices, weights;
  cuda::DeviceArray<int32_t> ids, instances, offsets, packed;
  cuda::DeviceArray<uint8_t> changed;
  cuda::DeviceArray<cuda::GpuRoutingReport> report{1};
  cuda::DeviceBytes workspace;
  cuda::RoutingLaunch launch;

  RoutingBatch(int tokens, int experts, int k, bool priced) {
    std::mt19937 random(1);
    std::normal_distribution<float> normal(0.0f, 2.0f);
    std::vector<float> values(static_cast<size_t>(tokens) * static_cast<size_t>(experts));
    for (float& value : values) value = normal(random);
    logits = cuda::DeviceArray<float>(values);
    prices = cuda::DeviceArray<float>(std::vector<float>(static_cast<size_t>(experts), 0.01f));
    const size_t pairs = static_cast<size_t>(tokens) * static_cast<size_t>(k);
    ids = cuda::DeviceArray<int32_t>(pairs);
    instances = cuda::DeviceArray<int32_t>(pairs);
    packed = cuda::DeviceArray<int32_t>(pairs);
    offsets = cuda::DeviceArray<int32_t>(static_cast<size_t>(experts) + 1);
    weights = cuda::DeviceArray<float>(pairs);
    changed = cuda::DeviceArray<uint8_t>(static_cast<size_t>(tokens));
    launch.input.scores = logits.data();
    launch.input.tokens = tokens;
    launch.input.experts = experts;
    launch.input.k = k;
    launch.input.gate = cuda::Gate::kSoftmax;
    launch.mode = priced ? cuda::RoutingMode::kPerToken : cuda::RoutingMode::kTopK;
    if (priced) launch.prices.slope = prices.data();
    launch.output = {ids.data(),     instances.data(), weights.data(), changed.data(),
                     offsets.data(), packed.data(),    report.data()};
    workspace = cuda::DeviceBytes(std::max(cuda::routing_workspace_bytes(launch),
                                           triton::TritonRouting::workspace_bytes(launch)));
  }
};

nlohmann::ordered_json compare_routing(const triton::TritonRouting& routing, cudaStream_t stream) {
  auto rows = nlohmann::ordered_json::array();
  fmt::print("\nrouting, us          tokens    CUDA  Triton\n");
  for (const bool priced : {false, true})
    for (const int experts : {128, 64})
      for (const int tokens : kTokenCounts) {
        RoutingBatch batch(tokens, experts, 8, priced);
        const auto time = [&](const auto& launch) {
          cuda::check(launch(0), "routing");
          cuda::check(cudaStreamSynchronize(stream), "routing");
          return median_of(graph_times_us(stream, kLaunches, kWarmUps, kReplays, launch));
        };
        const double cuda_us = time([&](int) {
          return cuda::launch_routing(batch.launch, batch.workspace.data(), batch.workspace.bytes(),
                                      stream);
        });
        const double triton_us = time([&](int) {
          return routing.run(batch.launch, batch.workspace.data(), batch.workspace.bytes(), stream);
        });
        fmt::print("{:9} E={:<3}  {:8} {:7.1f} {:7.1f}\n", priced ? "at prices" : "top-k", experts,
                   tokens, cuda_us, triton_us);
        rows.push_back({{"priced", priced},
                        {"experts", experts},
                        {"tokens", tokens},
                        {"cuda_us", cuda_us},
                        {"triton_us", triton_us}});
      }
  return rows;
}

nlohmann::ordered_json compare_experts() {
  auto rows = nlohmann::ordered_json::array();
  const std::unique_ptr<app::GpuWork> work = app::make_gpu_work();
  fmt::print("\nexperts, us                    tokens");
  for (const std::string& kernel : work->kernels("bf16")) fmt::print(" {:>12}", kernel);
  for (const char* layer : kLayers)
    for (const char* dtype : {"bf16", "int8", "int4"})
      for (const int tokens : kTokenCounts) {
        fmt::print("\n{:16} {:5} balanced {:7}", layer, dtype, tokens);
        for (const std::string& kernel : work->kernels("bf16")) {
          app::SweepPoint point;
          point.shape = app::parse_shape(layer, app::kMostGpuWeightsLog2);
          point.tokens = tokens;
          point.cold = true;
          point.dtype = dtype;
          point.kernel = kernel;
          work->prepare(point);
          std::vector<double> times;
          for (int i = 0; i < kReplays; ++i) times.push_back(work->run_us(1));
          std::sort(times.begin(), times.end());
          fmt::print(" {:12.1f}", median_of(times));
          rows.push_back({{"layer", layer},
                          {"dtype", dtype},
                          {"tokens", tokens},
                          {"kernel", kernel},
                          {"us", median_of(times)}});
        }
      }
  fmt::print("\n");
  return rows;
}

// Of the host, a launch of a small kernel of each kind: the median over runs of many in a row.
nlohmann::ordered_json compare_launches(const triton::TritonRouting& routing, cudaStream_t stream) {
  constexpr int kInARow = 200;
  RoutingBatch batch(1, 64, 8, false);
  cuda::DeviceArray<uint16_t> x(32), fragments(32);
  x.fill(0);
  const auto host_us = [&](int kernels, const auto& launch) {
    std::vector<double> times;
    for (int run = 0; run < kReplays; ++run) {
      cuda::check(cudaStreamSynchronize(stream), "waiting");
      const auto start = std::chrono::steady_clock::now();
      for (int i = 0; i < kInARow; ++i) cuda::check(launch(), "launching");
      const std::chrono::duration<double, std::micro> took =
          std::chrono::steady_clock::now() - start;
      times.push_back(took.count() / (kInARow * kernels));
    }
    std::sort(times.begin(), times.end());
    return median_of(times);
  };
  const double cuda_us = host_us(1, [&] {
    return cuda::to_fragment_order(reinterpret_cast<const __nv_bfloat16*>(x.data()),
                                   reinterpret_cast<__nv_bfloat16*>(fragments.data()), 32, stream);
  });
  const double triton_us = host_us(3, [&] {
    return routing.run(batch.launch, batch.workspace.data(), batch.workspace.bytes(), stream);
  });
  fmt::print("\na launch, us of the host: CUDA {:.2f}, Triton ahead of time {:.2f}\n", cuda_us,
             triton_us);
  return {{"cuda_us", cuda_us}, {"triton_us", triton_us}};
}

int run_benchmark(const std::string& json_path, const std::string& commit) {
  if (triton::kernels_in_use().kernels.empty())
    throw InvalidArgument("no Triton kernels: " + triton::kernels_in_use().problem);
  const cuda::Stream stream;
  const triton::TritonRouting routing(triton::kernels_in_use());
  nlohmann::ordered_json out;
  cudaDeviceProp properties{};
  int driver = 0;
  cuda::check(cudaGetDeviceProperties(&properties, 0), "reading the GPU's properties");
  cuda::check(cudaDriverGetVersion(&driver), "asking for the driver");
  out["commit"] = commit;
  out["device"] = properties.name;
  out["cuda_driver"] = driver;
  out["triton_sources"] = triton::kernels_in_use().sources_crc32;
  out["routing"] = compare_routing(routing, stream.get());
  out["experts"] = compare_experts();
  out["launch"] = compare_launches(routing, stream.get());
  if (!json_path.empty()) std::ofstream(json_path) << out.dump(1) << "\n";
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  CLI::App app("Triton's kernels beside the CUDA ones");
  std::string json_path, commit;
  app.add_option("--json", json_path, "write the results to this file");
  app.add_option("--commit", commit, "what was built");
  CLI11_PARSE(app, argc, argv);
  try {
    return run_benchmark(json_path, commit);
  } catch (const std::exception& error) {
    fmt::print(stderr, "gpu_triton: {}\n", error.what());
    return 2;
  }
}
