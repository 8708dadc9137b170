// The prefill kernel on one MoE layer: time and FLOP/s, gathering and the weighted sum included.
//
// Weights and activations are normal, every expert in memory of its own; a layer's plan is balanced
// (token t's slot s goes to expert t k + s modulo E) or drawn (the k best of Gaussian logits).
// Launches alternate between two plans and inputs and are timed in CUDA graphs. Floors: 6 hidden
// inter FLOPs a pair at the device's dense peak, and the used weights once at the rate of a large
// copy. The median latencies of other projects' kernels are bench/gpu_peers.py's.
#include <cuda_bf16.h>
#include <cuda_runtime_api.h>
#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <fstream>
#include <nlohmann/json.hpp>
#include <numeric>
#include <random>
#include <string>
#include <vector>

#include "gpu_timing.h"
#include "kernels/cuda/cuda_resources.h"
#include "kernels/cuda/devices.h"
#include "kernels/cuda/prefill_experts.h"
#include "model/cuda_weights.h"
#include "thermoe/error.h"
#include "thermoe/routing_plan.h"

namespace {

using namespace thermoe;
using cuda::check;

struct Shape {
  const char* name;
  int experts, k, hidden, inter;
};
constexpr Shape kShapes[] = {{"qwen3-30b-a3b", 128, 8, 2048, 768},
                             {"olmoe-1b-7b", 64, 8, 2048, 1024},
                             {"mixtral-8x7b", 8, 2, 4096, 14336},
                             {"gpt-oss-120b", 128, 4, 2880, 2880}};

// Normal values, a run of a million repeated: no kernel can tell.
cuda::DeviceArray<__nv_bfloat16> normal_values(size_t count, float deviation, unsigned seed) {
  std::mt19937 generator(seed);
  std::normal_distribution<float> normal(0.0f, deviation);
  std::vector<__nv_bfloat16> run(std::min(count, size_t{1} << 20));
  for (auto& value : run) value = __float2bfloat16(normal(generator));
  cuda::DeviceArray<__nv_bfloat16> values(count);
  for (size_t at = 0; at < count; at += run.size())
    check(cudaMemcpy(values.data() + at, run.data(), std::min(run.size(), count - at) * 2,
                     cudaMemcpyHostToDevice),
          "copying values");
  return values;
}

// A layer's experts, all bf16 or all fp8.
class Layer {
 public:
  Layer(const Shape& shape, bool fp8) : shape_(shape), fp8_(fp8) {
    const size_t matrix = static_cast<size_t>(shape.hidden) * static_cast<size_t>(shape.inter);
    const auto gate = normal_values(matrix, 0.02f, 1), up = normal_values(matrix, 0.02f, 2),
               down = normal_values(matrix, 0.02f, 3);
    std::vector<cuda::DeviceExpert> table;
    for (int e = 0; e < shape.experts; ++e)
      table.push_back(fp8 ? pack_fp8(gate.data(), up.data(), down.data())
                          : pack_bf16(gate.data(), up.data(), down.data()));
    check(cudaDeviceSynchronize(), "packing");
    experts_ = cuda::DeviceArray<cuda::DeviceExpert>(table);
  }

  const cuda::DeviceExpert* experts() const { return experts_.data(); }
  bool fp8() const { return fp8_; }

 private:
  uint8_t* room(size_t bytes) {
    buffers_.emplace_back(bytes);
    return reinterpret_cast<uint8_t*>(buffers_.back().data());
  }

  cuda::DeviceExpert pack_bf16(const __nv_bfloat16* gate, const __nv_bfloat16* up,
                               const __nv_bfloat16* down) {
    const size_t matrix = static_cast<size_t>(shape_.hidden) * static_cast<size_t>(shape_.inter);
    uint8_t* to[4] = {room(2 * matrix), room(2 * matrix), room(matrix), room(matrix)};
    check(cuda::pack_gate_up(gate, up, shape_.hidden, shape_.inter, to[0], to[1], nullptr), "pack");
    check(cuda::pack_down(down, shape_.hidden, shape_.inter, to[2], to[3], nullptr), "pack");
    cuda::DeviceExpert expert;
    expert.form = cuda::ExpertForm::kBf16;
    expert.gate_up.data = to[0], expert.gate_up.lo = to[1];
    expert.down.data = to[2], expert.down.lo = to[3];
    return expert;
  }

  cuda::DeviceExpert pack_fp8(const __nv_bfloat16* gate, const __nv_bfloat16* up,
                              const __nv_bfloat16* down) {
    const auto bytes = static_cast<size_t>(fp8_expert_bytes(shape_.hidden, shape_.inter));
    return pack_fp8_expert(gate, up, down, shape_.hidden, shape_.inter, room(bytes));
  }

  Shape shape_;
  bool fp8_;
  std::vector<cuda::DeviceBytes> buffers_;
  cuda::DeviceArray<cuda::DeviceExpert> experts_;
};

RoutingPlan make_plan(const Shape& shape, int tokens, bool drawn, unsigned seed) {
  RoutingPlan plan;
  plan.tokens = tokens;
  plan.experts = shape.experts;
  plan.k = shape.k;
  std::mt19937 generator(seed);
  std::normal_distribution<float> normal(0.0f, 1.0f);
  std::vector<float> bias(static_cast<size_t>(shape.experts)), logits(bias.size());
  for (float& b : bias) b = 0.5f * normal(generator);
  std::vector<int32_t> order(bias.size());
  for (int t = 0; t < tokens; ++t) {
    std::iota(order.begin(), order.end(), 0);
    if (drawn) {
      for (size_t e = 0; e < bias.size(); ++e) logits[e] = bias[e] + normal(generator);
      std::partial_sort(order.begin(), order.begin() + shape.k, order.end(),
                        [&](int a, int b) { return logits[a] > logits[b]; });
    }
    for (int s = 0; s < shape.k; ++s) {
      const int balanced = (t * shape.k + s + static_cast<int>(seed)) % shape.experts;
      plan.instances.push_back(drawn ? order[static_cast<size_t>(s)] : balanced);
      plan.weights.push_back(1.0f / static_cast<float>(shape.k));
    }
  }
  plan.ids = plan.instances;
  pack(plan, shape.experts);
  return plan;
}

struct Input {
  cuda::DeviceArray<int32_t> instances, offsets, packed;
  cuda::DeviceArray<float> weights;
  cuda::DeviceArray<__nv_bfloat16> x, out;
  Input(const RoutingPlan& plan, int hidden, unsigned seed)
      : instances(plan.instances),
        offsets(plan.offsets),
        packed(plan.packed),
        weights(plan.weights),
        x(normal_values(static_cast<size_t>(plan.tokens) * static_cast<size_t>(hidden), 1.0f,
                        seed)),
        out(x.size()) {}
};

struct Rates {
  double copy_bytes_per_s = 0, peak_flops[2] = {0, 0};  // bf16, fp8
  double sm_clock_mhz = 0, memory_clock_mhz = 0;        // the highest
};

// Bytes read and written per second by a large copy, the best of several; FLOP/s of the tensor
// cores at the device's highest clock: 4096 a cycle of a multiprocessor in bf16 on Hopper.
Rates device_rates() {
  constexpr size_t kBytes = size_t{1} << 30;
  const cuda::DeviceBytes from(kBytes), to(kBytes);
  bench::GpuTimer timer;
  Rates rates;
  for (int i = 0; i < 5; ++i) {
    const double us = timer.us(nullptr, [&] {
      for (int c = 0; c < 10; ++c)
        check(cudaMemcpyAsync(to.data(), from.data(), kBytes, cudaMemcpyDeviceToDevice), "copying");
    });
    rates.copy_bytes_per_s = std::max(rates.copy_bytes_per_s, 20.0 * kBytes / (1e-6 * us));
  }
  int device = 0, khz = 0, memory_khz = 0, blocks = 0;
  check(cudaGetDevice(&device), "asking for the device");
  check(cudaDeviceGetAttribute(&khz, cudaDevAttrClockRate, device), "asking for the clock");
  check(cudaDeviceGetAttribute(&memory_khz, cudaDevAttrMemoryClockRate, device), "asking");
  check(cudaDeviceGetAttribute(&blocks, cudaDevAttrMultiProcessorCount, device), "asking");
  rates.peak_flops[0] = 4096.0 * blocks * khz * 1e3;
  rates.peak_flops[1] = 2 * rates.peak_flops[0];
  rates.sm_clock_mhz = 1e-3 * khz;
  rates.memory_clock_mhz = 1e-3 * memory_khz;
  return rates;
}

nlohmann::json measure(const Shape& shape, const Layer& layer, int tokens, bool drawn,
                       const Rates& rates, int replays) {
  constexpr int kLaunches = 2;
  std::vector<Input> inputs;
  int used = 0;
  for (unsigned i = 0; i < kLaunches; ++i) {
    const RoutingPlan plan = make_plan(shape, tokens, drawn, i);
    used = 0;
    for (int e = 0; e < plan.experts; ++e) used += plan.load(e) > 0;
    inputs.emplace_back(plan, shape.hidden, 10 + i);
  }
  cuda::DeviceBytes workspace(
      cuda::prefill_experts_workspace(tokens, shape.k, shape.hidden, shape.inter));
  workspace.fill(0);
  cudaStream_t stream = nullptr;
  check(cudaStreamCreate(&stream), "making a stream");
  const auto forms = layer.fp8() ? cuda::PrefillForms::kFp8 : cuda::PrefillForms::kBf16;
  const std::vector<double> times =
      bench::graph_times_us(stream, kLaunches, 3, replays, [&](int i) {
        const Input& in = inputs[static_cast<size_t>(i)];
        return cuda::prefill_experts(
            {tokens, shape.k, shape.hidden, shape.inter, shape.experts, layer.experts(),
             in.x.data(), in.instances.data(), in.weights.data(), in.offsets.data(),
             in.packed.data(), in.out.data(), workspace.data()},
            forms, stream);
      });
  cudaStreamDestroy(stream);
  const double us = times[times.size() / 2];
  const double weights = 3.0 * shape.hidden * shape.inter;
  const double flops = 2 * weights * tokens * shape.k;
  const double bytes = used * weights * (layer.fp8() ? 1 : 2);
  const double floor_us =
      1e6 * std::max(bytes / rates.copy_bytes_per_s, flops / rates.peak_flops[layer.fp8()]);
  fmt::print(
      "{:14} {} {:6} {:9} {:9.1f} us ({:.1f} to {:.1f}), {:7.1f} TFLOP/s, floor {:7.1f}, ratio "
      "{:.2f}\n",
      shape.name, layer.fp8() ? "fp8 " : "bf16", tokens, drawn ? "drawn" : "balanced", us,
      times[times.size() / 10], times[times.size() * 9 / 10], flops / us * 1e-6, floor_us,
      us / floor_us);
  return {{"shape", shape.name},
          {"form", layer.fp8() ? "fp8" : "bf16"},
          {"tokens", tokens},
          {"drawn", drawn},
          {"experts", used},
          {"latency_us", us},
          {"p10_us", times[times.size() / 10]},
          {"p90_us", times[times.size() * 9 / 10]},
          {"flops", flops},
          {"flops_per_s", flops / us * 1e6},
          {"bytes", bytes},
          {"floor_us", floor_us},
          {"floor_ratio", us / floor_us}};
}

}  // namespace

int main(int argc, char** argv) try {
  CLI::App app("Times the prefill kernel on a GPU");
  std::string json, commit = "unknown";
  std::vector<std::string> shapes = {"qwen3-30b-a3b", "olmoe-1b-7b", "mixtral-8x7b",
                                     "gpt-oss-120b"},
                           forms = {"bf16", "fp8"};
  std::vector<int> tokens = {1024, 4096, 16384};
  int replays = 25;
  app.add_option("--json", json, "file for the results");
  app.add_option("--commit", commit, "to note in them");
  app.add_option("--shapes", shapes, "of whose layers")->delimiter(',');
  app.add_option("--forms", forms, "of the weights: bf16, fp8")->delimiter(',');
  app.add_option("--tokens", tokens, "batch sizes")->delimiter(',');
  app.add_option("--replays", replays, "of each graph of two layers")->check(CLI::PositiveNumber);
  CLI11_PARSE(app, argc, argv);
  const CudaDeviceList devices = cuda_device_list();
  if (devices.devices.empty()) throw InvalidArgument("no GPU: " + devices.problem);
  const Rates rates = device_rates();
  fmt::print("{}: copies {:.2f} TB/s, at its highest clock {:.0f} TFLOP/s of bf16\n",
             devices.devices.front().name, rates.copy_bytes_per_s * 1e-12,
             rates.peak_flops[0] * 1e-12);
  nlohmann::json results = nlohmann::json::array();
  const auto has = [](const std::vector<std::string>& names, const char* name) {
    return std::find(names.begin(), names.end(), name) != names.end();
  };
  for (const Shape& shape : kShapes) {
    if (!has(shapes, shape.name)) continue;
    for (const bool fp8 : {false, true}) {
      if (!has(forms, fp8 ? "fp8" : "bf16")) continue;
      const Layer layer(shape, fp8);
      for (const int count : tokens)
        for (const bool drawn : {false, true})
          results.push_back(measure(shape, layer, count, drawn, rates, replays));
    }
  }
  if (!json.empty())
    std::ofstream(json) << nlohmann::json{{"benchmark", "bench/gpu_prefill"},
                                          {"device", devices.devices.front().name},
                                          {"driver_cuda", devices.driver_version},
                                          {"commit", commit},
                                          {"highest_sm_clock_mhz", rates.sm_clock_mhz},
                                          {"memory_clock_mhz", rates.memory_clock_mhz},
                                          {"copy_bytes_per_s", rates.copy_bytes_per_s},
                                          {"peak_bf16_flops_per_s", rates.peak_flops[0]},
                                          {"results", results}}
                               .dump(1)
                        << "\n";
  return 0;
} catch (const std::exception& error) {
  fmt::print(stderr, "gpu_prefill: {}\n", error.what());
  return 2;
}
