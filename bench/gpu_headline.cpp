// One MoE layer, routing and experts together: plain top-k in bf16 against thermoe's plans, time
// and energy, on router logits that a real model gave.
//
// Logits: data/routing (several recorded rows side by side where the layer has more experts). Each
// graph is 16 layers on different logits, whose experts together exceed the L2 cache many times
// over. Energy is the board's, over seconds of replays. --plans writes top-k's plans for
// bench/gpu_peers.py, so that others' kernels can be timed on the same.
//   gpu_headline [--policy NAME:PRECISIONS:OPEN ...] [--tokens N] [--json FILE] [--plans FILE]
#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <chrono>
#include <fstream>
#include <functional>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "gpu_layer.h"
#include "gpu_timing.h"
#include "paths.h"
#include "thermoe/cuda_transformer.h"
#include "thermoe/energy_meter.h"
#include "thermoe/error.h"
#include "thermoe/gpu_system_monitor.h"

namespace {

using namespace thermoe;
using namespace thermoe::bench;

struct Energy {
  double power_w = 0, clock_mhz = 0, mj_a_layer = 0;
  bool power_capped = false;
};

// Replays the layers for so long and asks the board what it took.
template <typename Enqueue>
Energy energy_of(double seconds, double layer_us, const Enqueue& replay_all) {
  GpuSystemMonitor monitor(open_nvml_source());
  monitor.start();
  EnergyMeter meter;
  Energy energy;
  const auto start = std::chrono::steady_clock::now();
  double now_s = 0, clock = 0;
  int samples = 0;
  while (now_s < seconds) {
    replay_all();
    now_s = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
    if (now_s < 0.3 * seconds) continue;  // clocks and power settle
    const HardwareState state = monitor.state();
    meter.add(state);
    clock += state.sm_clock_mhz.value_or(0);
    energy.power_capped |= (state.throttle_reasons.value_or(0) & kThrottleAnyPower) != 0;
    ++samples;
  }
  const EnergyReading reading = meter.reading();
  if (reading.energy_mj && reading.span_s > 0) {
    energy.power_w = *reading.energy_mj * 1e-3 / reading.span_s;
    energy.mj_a_layer = energy.power_w * layer_us * 1e-3;
  }
  energy.clock_mhz = samples > 0 ? clock / samples : 0;
  return energy;
}

class CapturedLayers {
 public:
  template <typename Enqueue>
  CapturedLayers(cudaStream_t stream, const Enqueue& enqueue) : stream_(stream) {
    graph_.capture(stream, [&] {
      for (int layer = 0; layer < kLayers; ++layer) enqueue(layer);
    });
  }
  void replay(int times) {
    for (int i = 0; i < times; ++i) graph_.launch(stream_);
    check(cudaStreamSynchronize(stream_), "replaying");
  }

 private:
  cudaStream_t stream_;
  cuda::Graph graph_;
};

double median_us(cudaStream_t stream, const std::function<void(int)>& layer) {
  const std::vector<double> times = bench::graph_times_us(stream, kLayers, 5, 41, [&](int i) {
    layer(i);
    return cudaSuccess;
  });
  return times[times.size() / 2];
}

Json measure(Runner& runner, const Policy& policy, double seconds, cudaStream_t stream) {
  const double routing_us = median_us(stream, [&](int i) { runner.route(i, stream); });
  const double experts_us = median_us(stream, [&](int i) { runner.run(i, stream); });
  const auto both = [&](int i) {
    runner.route(i, stream);
    runner.run(i, stream);
  };
  const double layer_us = median_us(stream, both);
  CapturedLayers layers(stream, both);
  const Energy energy = energy_of(seconds, layer_us, [&] { layers.replay(16); });
  Json result = runner.summary();
  result["policy"] = policy.name;
  result["open_price"] = policy.open;
  result["routing_us"] = routing_us;
  result["experts_us"] = experts_us;
  result["layer_us"] = layer_us;
  result["power_w"] = energy.power_w;
  result["sm_clock_mhz"] = energy.clock_mhz;
  result["power_capped"] = energy.power_capped;
  result["layer_mj"] = energy.mj_a_layer;
  fmt::print(
      "{:10} bf16 {:5.1f} int8 {:5.1f} int4 {:5.1f} fp8 {:5.1f}  routing {:6.1f} experts {:6.1f} "
      "layer {:6.1f} us  {:4.0f} W {:4.0f} MHz {:6.2f} mJ\n",
      policy.name, result["opened_bf16"].get<double>(), result["opened_int8"].get<double>(),
      result["opened_int4"].get<double>(), result["opened_fp8"].get<double>(), routing_us,
      experts_us, layer_us, energy.power_w, energy.clock_mhz, energy.mj_a_layer);
  return result;
}

void write_plans(const Runner& runner, const CostShape& shape, int tokens,
                 const std::string& path) {
  Json plans = Json::array();
  for (int layer = 0; layer < 4; ++layer) {
    const std::vector<int32_t> ids = runner.ids(layer);
    const std::vector<float> weights = runner.plan_weights(layer);
    Json rows_ids = Json::array(), rows_weights = Json::array();
    for (int t = 0; t < tokens; ++t) {
      const auto at = static_cast<std::ptrdiff_t>(t) * shape.top_k;
      rows_ids.push_back(std::vector<int32_t>(ids.begin() + at, ids.begin() + at + shape.top_k));
      rows_weights.push_back(
          std::vector<float>(weights.begin() + at, weights.begin() + at + shape.top_k));
    }
    plans.push_back({{"name", fmt::format("recorded-{}", layer)},
                     {"shape", shape.name},
                     {"ids", rows_ids},
                     {"weights", rows_weights}});
  }
  std::ofstream(path) << plans.dump() << "\n";
}

}  // namespace

int main(int argc, char** argv) try {
  CLI::App command("Times a MoE layer, routing and experts, under top-k and under thermoe");
  std::string json, plans, commit = "unknown", shape_name = "qwen3-30b-a3b";
  std::vector<std::string> policies{"thermoe:int4:0.004", "thermoe2:int8+int4:0.05"};
  int tokens = 16;
  double seconds = 4;
  command.add_option("--policy", policies, "NAME:PRECISIONS:OPEN");
  command.add_option("--tokens", tokens)->check(CLI::Range(1, 16384));
  command.add_option("--shape", shape_name);
  command.add_option("--energy-s", seconds, "how long each layer runs for its energy");
  command.add_option("--json", json);
  command.add_option("--plans", plans, "top-k's plans of some layers, for gpu_peers.py");
  command.add_option("--commit", commit);
  CLI11_PARSE(command, argc, argv);
  const CostShape& shape = cost_shape(shape_name);
  Weights weights(shape);
  const auto measured =
      nlohmann::json::parse(app::read_file(app::shipped("data/routing/errors.json")));
  std::vector<float> errors;
  for (const char* name : {"bf16", "int8", "int4", "fp8"})
    errors.push_back(measured.at("error_frac").value(name, kFp8ErrorFrac));
  cudaStream_t stream = nullptr;
  check(cudaStreamCreate(&stream), "making a stream");
  std::vector<Policy> all{{"top-k", {ExpertForm::kBf16}, 0}};
  for (const std::string& text : policies) all.push_back(parse_policy(text));
  for (const Policy& policy : all)
    if (policy.forms.back() == ExpertForm::kFp8) {
      weights.make_fp8();
      break;
    }
  Json results = Json::array();
  for (const Policy& policy : all) {
    Runner runner(shape, weights, policy, tokens, errors);
    results.push_back(measure(runner, policy, seconds, stream));
    if (policy.name == "top-k" && !plans.empty()) write_plans(runner, shape, tokens, plans);
  }
  if (!json.empty())
    std::ofstream(json) << Json{{"benchmark", "bench/gpu_headline"},
                                {"device", GpuSystemMonitor(open_nvml_source()).device().name},
                                {"driver", probe_nvml().driver_version},
                                {"commit", commit},
                                {"shape", shape.name},
                                {"tokens", tokens},
                                {"results", results}}
                               .dump(1)
                        << "\n";
  return 0;
} catch (const std::exception& error) {
  fmt::print(stderr, "gpu_headline: {}\n", error.what());
  return 2;
}
