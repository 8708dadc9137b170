// The decode kernel on one MoE layer: time against the floor of the bytes that the plan reads.
//
// Weights are random, in every precision; a layer's plan is balanced (token t's slot s goes to
// expert t k + s modulo E) or drawn (the k best of Gaussian logits). Launches rotate through the
// experts, so that none finds its weights in the L2 cache, and are timed in CUDA graphs; the floor
// is the rate of a large copy, measured in the same run.
#include <cuda_bf16.h>
#include <cuda_runtime_api.h>
#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cstring>
#include <fstream>
#include <nlohmann/json.hpp>
#include <numeric>
#include <random>
#include <string>
#include <vector>

#include "gpu_timing.h"
#include "kernels/cuda/cuda_resources.h"
#include "kernels/cuda/decode_experts.h"
#include "kernels/cuda/devices.h"
#include "thermoe/error.h"
#include "thermoe/nested_view.h"
#include "thermoe/routing_plan.h"

namespace {

using namespace thermoe;
using cuda::check;
using cuda::ExpertForm;

struct Shape {
  const char* name;
  int experts, k, hidden, inter;
};
constexpr Shape kShapes[] = {{"qwen3-30b-a3b", 128, 8, 2048, 768},
                             {"olmoe-1b-7b", 64, 8, 2048, 1024},
                             {"mixtral-8x7b", 8, 2, 4096, 14336},
                             {"gpt-oss-120b", 128, 4, 2880, 2880}};
constexpr const char* kForms[] = {"bf16", "int8", "int4"};

// Random weights of a layer, every expert in one form.
class Layer {
 public:
  Layer(const Shape& shape, ExpertForm form) : shape_(shape) {
    std::mt19937 generator(1);
    const int64_t matrix = int64_t{shape.hidden} * shape.inter;
    const int64_t blocks = matrix / (NestedView::kBlock * NestedView::kBlock);
    std::vector<cuda::DeviceExpert> table;
    for (int e = 0; e < shape.experts; ++e) {
      cuda::DeviceExpert expert;
      expert.form = form;
      if (form == ExpertForm::kBf16) {
        expert.gate_up = bf16(2 * matrix, generator);
        expert.down = bf16(matrix, generator);
      } else {
        expert.gate_up = nested(2 * blocks, form, generator);
        expert.down = nested(blocks, form, generator);
      }
      table.push_back(expert);
    }
    experts_ = cuda::DeviceArray<cuda::DeviceExpert>(table);
  }

  const cuda::DeviceExpert* experts() const { return experts_.data(); }

 private:
  const uint8_t* keep(const std::vector<uint8_t>& host, size_t bytes) {
    buffers_.emplace_back(bytes);
    for (size_t at = 0; at < bytes; at += host.size())
      check(cudaMemcpy(buffers_.back().data() + at, host.data(), std::min(host.size(), bytes - at),
                       cudaMemcpyHostToDevice),
            "copying weights");
    return reinterpret_cast<const uint8_t*>(buffers_.back().data());
  }

  // A run of random values, repeated: no kernel can tell.
  static std::vector<uint8_t> random_bytes(size_t bytes, std::mt19937& generator) {
    std::vector<uint8_t> values(std::min(bytes, size_t{1} << 20));
    for (size_t i = 0; i + 4 <= values.size(); i += 4) {
      const auto word = static_cast<uint32_t>(generator());
      std::memcpy(&values[i], &word, 4);
    }
    return values;
  }

  cuda::DeviceWeight bf16(int64_t count, std::mt19937& generator) {
    std::vector<uint8_t> values = random_bytes(static_cast<size_t>(count), generator);
    // Magnitudes of 2^-9 to 2^-7.
    for (size_t i = 1; i < values.size(); i += 2)
      values[i] = static_cast<uint8_t>((values[i] & 0x80) | 0x3B);
    cuda::DeviceWeight w;
    w.data = keep(values, static_cast<size_t>(count));
    w.lo = keep(values, static_cast<size_t>(count));
    return w;
  }

  cuda::DeviceWeight nested(int64_t blocks, ExpertForm form, std::mt19937& generator) {
    const size_t plane = static_cast<size_t>(blocks * NestedView::kPlaneBlockBytes);
    const size_t scale_bytes = static_cast<size_t>(blocks * NestedView::kScaleBlockBytes);
    cuda::DeviceWeight w;
    w.data = keep(random_bytes(plane, generator), plane);
    if (form == ExpertForm::kInt8) w.lo = keep(random_bytes(plane, generator), plane);
    w.scales = keep(random_bytes(scale_bytes, generator), scale_bytes);
    w.base = 1e-4f;
    w.plane_ratio = 12;
    return w;
  }

  Shape shape_;
  std::vector<cuda::DeviceBytes> buffers_;
  cuda::DeviceArray<cuda::DeviceExpert> experts_;
};

// Token t's experts, shifted by `shift`.
RoutingPlan make_plan(const Shape& shape, int tokens, bool drawn, int shift) {
  RoutingPlan plan;
  plan.tokens = tokens;
  plan.experts = shape.experts;
  plan.k = shape.k;
  std::mt19937 generator(7);
  std::normal_distribution<float> normal(0.0f, 1.5f);
  std::vector<int32_t> order(static_cast<size_t>(shape.experts));
  std::vector<float> logits(order.size());
  for (int t = 0; t < tokens; ++t) {
    std::iota(order.begin(), order.end(), 0);
    for (float& logit : logits) logit = normal(generator);
    if (drawn)
      std::sort(order.begin(), order.end(), [&](int a, int b) { return logits[a] > logits[b]; });
    for (int s = 0; s < shape.k; ++s) {
      const int expert = drawn ? order[static_cast<size_t>(s)] : t * shape.k + s;
      plan.instances.push_back((expert + shift) % shape.experts);
      plan.weights.push_back(1.0f / static_cast<float>(shape.k));
    }
  }
  plan.ids = plan.instances;
  pack(plan, shape.experts);
  return plan;
}

int distinct(const RoutingPlan& plan) {
  int count = 0;
  for (int e = 0; e < plan.experts; ++e) count += plan.load(e) > 0;
  return count;
}

double expert_bytes(const Shape& shape, ExpertForm form) {
  const double weights = 3.0 * shape.hidden * shape.inter;
  return weights * (form == ExpertForm::kBf16   ? 2.0
                    : form == ExpertForm::kInt8 ? 33.0 / 32
                                                : 17.0 / 32);
}

struct DevicePlan {
  cuda::DeviceArray<int32_t> instances, offsets, packed;
  cuda::DeviceArray<float> weights;
  explicit DevicePlan(const RoutingPlan& plan)
      : instances(plan.instances),
        offsets(plan.offsets),
        packed(plan.packed),
        weights(plan.weights) {}
};

// Bytes read and written per second by a large copy: the best of several.
double copy_rate() {
  constexpr size_t kBytes = size_t{1} << 30;
  constexpr int kCopies = 10;
  const cuda::DeviceBytes from(kBytes), to(kBytes);
  bench::GpuTimer timer;
  double best = 0;
  for (int i = 0; i < 5; ++i) {
    const double us = timer.us(nullptr, [&] {
      for (int c = 0; c < kCopies; ++c)
        check(cudaMemcpyAsync(to.data(), from.data(), kBytes, cudaMemcpyDeviceToDevice), "copying");
    });
    best = std::max(best, 2.0 * kBytes * kCopies / (1e-6 * us));
  }
  return best;
}

nlohmann::json measure(const Shape& shape, const Layer& layer, ExpertForm form, int tokens,
                       bool drawn, double bytes_per_s) {
  constexpr int kLaunches = 16;
  std::vector<DevicePlan> plans;
  int used = 0;
  for (int i = 0; i < kLaunches; ++i) {
    const RoutingPlan plan = make_plan(shape, tokens, drawn, i * shape.k * tokens);
    used = distinct(plan);
    plans.emplace_back(plan);
  }
  const size_t values = static_cast<size_t>(tokens) * static_cast<size_t>(shape.hidden);
  std::mt19937 generator(3);
  std::normal_distribution<float> normal;
  std::vector<__nv_bfloat16> host(values);
  for (auto& value : host) value = __float2bfloat16(normal(generator));
  const cuda::DeviceArray<__nv_bfloat16> x(host), out(values);
  cuda::DeviceBytes workspace(
      cuda::decode_experts_workspace(tokens, shape.k, shape.hidden, shape.inter));
  workspace.fill(0);
  cudaStream_t stream = nullptr;
  check(cudaStreamCreate(&stream), "making a stream");
  const std::vector<double> times = bench::graph_times_us(stream, kLaunches, 3, 25, [&](int i) {
    const DevicePlan& plan = plans[static_cast<size_t>(i)];
    return cuda::decode_experts(
        {tokens, shape.k, shape.hidden, shape.inter, shape.experts, layer.experts(), x.data(),
         plan.instances.data(), plan.weights.data(), plan.offsets.data(), plan.packed.data(),
         out.data(), workspace.data()},
        stream);
  });
  cudaStreamDestroy(stream);
  const double us = times[times.size() / 2];
  const double bytes = used * expert_bytes(shape, form);
  const double floor_us = bytes / bytes_per_s * 1e6;
  const char* name = kForms[static_cast<int>(form)];
  fmt::print("{:14} {:5} {:5} {:9} {:4} experts {:9.1f} us, floor {:8.1f}, ratio {:.2f}\n",
             shape.name, name, tokens, drawn ? "drawn" : "balanced", used, us, floor_us,
             us / floor_us);
  return {{"shape", shape.name}, {"form", name},         {"tokens", tokens},
          {"drawn", drawn},      {"experts", used},      {"latency_us", us},
          {"bytes", bytes},      {"floor_us", floor_us}, {"floor_ratio", us / floor_us}};
}

}  // namespace

int main(int argc, char** argv) try {
  CLI::App app("Times the decode kernel on a GPU");
  std::string json, commit = "unknown";
  std::vector<std::string> shapes = {"qwen3-30b-a3b", "olmoe-1b-7b", "mixtral-8x7b",
                                     "gpt-oss-120b"},
                           forms = {"bf16", "int8", "int4"};
  std::vector<int> tokens = {1, 4, 8, 16, 32, 64, 128, 256};
  app.add_option("--json", json, "file for the results");
  app.add_option("--commit", commit, "to note in them");
  app.add_option("--shapes", shapes, "of whose layers")->delimiter(',');
  app.add_option("--forms", forms, "of the weights: bf16, int8, int4")->delimiter(',');
  app.add_option("--tokens", tokens, "batch sizes")->delimiter(',');
  CLI11_PARSE(app, argc, argv);
  const CudaDeviceList devices = cuda_device_list();
  if (devices.devices.empty()) throw InvalidArgument("no GPU: " + devices.problem);
  const double bytes_per_s = copy_rate();
  fmt::print("{}: copies {:.2f} TB/s\n", devices.devices.front().name, bytes_per_s * 1e-12);
  nlohmann::json results = nlohmann::json::array();
  const auto has = [](const std::vector<std::string>& names, const char* name) {
    return std::find(names.begin(), names.end(), name) != names.end();
  };
  for (const Shape& shape : kShapes) {
    if (!has(shapes, shape.name)) continue;
    for (const ExpertForm form : {ExpertForm::kBf16, ExpertForm::kInt8, ExpertForm::kInt4}) {
      if (!has(forms, kForms[static_cast<int>(form)])) continue;
      const Layer layer(shape, form);
      for (const int count : tokens)
        for (const bool drawn : {false, true})
          results.push_back(measure(shape, layer, form, count, drawn, bytes_per_s));
    }
  }
  if (!json.empty())
    std::ofstream(json) << nlohmann::json{{"benchmark", "bench/gpu_experts"},
                                          {"device", devices.devices.front().name},
                                          {"driver_cuda", devices.driver_version},
                                          {"commit", commit},
                                          {"copy_bytes_per_s", bytes_per_s},
                                          {"results", results}}
                               .dump(1)
                        << "\n";
  return 0;
} catch (const std::exception& error) {
  fmt::print(stderr, "gpu_experts: {}\n", error.what());
  return 2;
}
