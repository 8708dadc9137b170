// One MoE layer, routing and experts together: plain top-k in bf16 against thermoe's plans, time
// and energy, on router logits that a real model gave.
//
// Logits: data/routing (several recorded rows side by side where the layer has more experts). Each
// graph is 16 layers on different logits, whose experts together exceed the L2 cache many times
// over. Energy is the board's, over seconds of replays. --plans writes top-k's plans for
// bench/gpu_peers.py, so that others' kernels can be timed on the same.
//   gpu_headline [--policy NAME:PRECISIONS:OPEN ...] [--tokens N] [--json FILE] [--plans FILE]
#include <cuda_bf16.h>
#include <cuda_runtime_api.h>
#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <chrono>
#include <cmath>
#include <fstream>
#include <nlohmann/json.hpp>
#include <random>
#include <string>
#include <vector>

#include "core/gzip_file.h"
#include "gpu_timing.h"
#include "kernels/cuda/cuda_resources.h"
#include "kernels/cuda/prefill_experts.h"
#include "kernels/cuda/routing.h"
#include "kernels/cuda/synthetic.h"
#include "model/cuda_weights.h"
#include "npy.h"
#include "paths.h"
#include "thermoe/cuda_transformer.h"
#include "thermoe/energy_meter.h"
#include "thermoe/error.h"
#include "thermoe/gpu_system_monitor.h"
#include "thermoe/kernel_cost_model.h"
#include "thermoe/nested_view.h"

namespace {

using namespace thermoe;
using cuda::check;
using cuda::DeviceArray;
using cuda::DeviceExpert;
using cuda::ExpertForm;
using Json = nlohmann::ordered_json;

constexpr int kLayers = 16;             // of a graph
constexpr int kMostDecodeTokens = 256;  // more are the prefill kernel's

// What of a layer's precisions a policy may choose from, and at which price of an expert in bf16.
struct Policy {
  std::string name;
  std::vector<ExpertForm> forms;
  float open = 0;
};

constexpr ExpertForm kForms[] = {ExpertForm::kBf16, ExpertForm::kInt8, ExpertForm::kInt4,
                                 ExpertForm::kFp8};
const char* name_of(ExpertForm form) {
  constexpr const char* kNames[] = {"bf16", "int8", "int4", "fp8"};
  return kNames[static_cast<int>(form)];
}

Policy parse_policy(const std::string& text) {
  const size_t first = text.find(':'), last = text.rfind(':');
  if (first == std::string::npos || first == last)
    throw InvalidArgument("a policy is NAME:PRECISIONS:OPEN, as thermoe:int8+int4:0.05");
  Policy policy;
  policy.name = text.substr(0, first);
  const std::string forms = text.substr(first + 1, last - first - 1);
  for (const ExpertForm form : kForms)
    if (forms.find(name_of(form)) != std::string::npos) policy.forms.push_back(form);
  policy.open = std::stof(text.substr(last + 1));
  if (policy.forms.empty()) throw InvalidArgument(text + " names no precision");
  return policy;
}

// Random weights of a layer, every expert in bf16 and as planes.
class Weights {
 public:
  explicit Weights(const CostShape& shape) : shape_(shape) {
    const int64_t matrix = shape.hidden_size * shape.expert_inter_size;
    for (int e = 0; e < shape.experts; ++e) {
      stored_.push_back({ExpertForm::kBf16, bf16(2 * matrix), bf16(matrix)});
      nested_.push_back({ExpertForm::kInt8, planes(2 * matrix), planes(matrix)});
    }
  }
  // Where a policy wants them: from random bf16 of their own.
  void make_fp8() {
    const int hidden = static_cast<int>(shape_.hidden_size);
    const int inter = static_cast<int>(shape_.expert_inter_size);
    const int64_t matrix = shape_.hidden_size * shape_.expert_inter_size;
    const DeviceArray<__nv_bfloat16> staging(static_cast<size_t>(3 * matrix));
    for (int e = 0; e < shape_.experts; ++e) {
      check(cuda::fill_random(staging.data(), 3 * matrix, 0.02f, ++seed_, nullptr),
            "making weights");
      const __nv_bfloat16 *gate = staging.data(), *up = gate + matrix, *down = up + matrix;
      fp8_.push_back(
          pack_fp8_expert(gate, up, down, hidden, inter, room(fp8_expert_bytes(hidden, inter))));
    }
    check(cudaDeviceSynchronize(), "making weights");
  }
  DeviceExpert of(int expert, ExpertForm form) const {
    const std::vector<DeviceExpert>& of_form = form == ExpertForm::kBf16  ? stored_
                                               : form == ExpertForm::kFp8 ? fp8_
                                                                          : nested_;
    DeviceExpert chosen = of_form.at(static_cast<size_t>(expert));
    chosen.form = form;
    return chosen;
  }
  double bytes(ExpertForm form) const {
    const double values = 3.0 * static_cast<double>(shape_.hidden_size * shape_.expert_inter_size);
    return values * (form == ExpertForm::kBf16   ? 2.0
                     : form == ExpertForm::kFp8  ? 1.0
                     : form == ExpertForm::kInt8 ? 33.0 / 32
                                                 : 17.0 / 32);
  }

 private:
  uint8_t* room(int64_t bytes) {
    buffers_.emplace_back(static_cast<size_t>(bytes));
    return reinterpret_cast<uint8_t*>(buffers_.back().data());
  }
  cuda::DeviceWeight bf16(int64_t values) {
    cuda::DeviceWeight weight;
    uint8_t* halves[2] = {room(values), room(values)};
    for (uint8_t* half : halves)
      check(cuda::fill_random(reinterpret_cast<__nv_bfloat16*>(half), values / 2, 0.02f, ++seed_,
                              nullptr),
            "making weights");
    weight.data = halves[0];
    weight.lo = halves[1];
    return weight;
  }
  cuda::DeviceWeight planes(int64_t values) {
    const auto bytes = [this](int64_t count, int low, int high) {
      uint8_t* piece = room(count);
      check(cuda::fill_random_bytes(piece, count, low, high, ++seed_, nullptr), "making weights");
      return piece;
    };
    cuda::DeviceWeight weight;
    weight.data = bytes(values / 2, 0, 255);
    weight.lo = bytes(values / 2, 0, 255);
    weight.scales = bytes(values / NestedView::kBlock, 0x20, 0x37);  // 0.5 to 2
    weight.base = 4e-4f;
    weight.plane_ratio = 12;
    return weight;
  }

  CostShape shape_;
  uint32_t seed_ = 0;
  std::vector<cuda::DeviceBytes> buffers_;
  std::vector<DeviceExpert> stored_, nested_, fp8_;
};

// [kLayers, tokens, experts] logits, each token's of recorded rows of one layer of the real model.
std::vector<float> draw_logits(int tokens, int experts) {
  const std::string path = app::shipped("data/routing/router-logits.npy.gz").string();
  const std::string file = core::read_maybe_gzipped(path);
  const app::FloatArray table = app::parse_npy(std::as_bytes(std::span(file)), path);
  const int64_t layers = table.shape.at(0), rows = table.shape.at(1), width = table.shape.at(2);
  std::mt19937 random(5);
  std::vector<float> logits;
  for (int layer = 0; layer < kLayers; ++layer)
    for (int t = 0; t < tokens; ++t)
      for (int e = 0; e < experts;) {
        const int64_t row = layer % layers * rows + static_cast<int64_t>(random()) % rows;
        for (int64_t w = 0; w < width && e < experts; ++w, ++e)
          logits.push_back(table.values[static_cast<size_t>(row * width + w)]);
      }
  return logits;
}

// A policy's launches for every layer of the graph.
class Runner {
 public:
  Runner(const CostShape& shape, const Weights& weights, const Policy& policy, int tokens,
         const std::vector<float>& errors);
  void route(int layer, cudaStream_t stream);
  void run(int layer, cudaStream_t stream);
  // Reads the plans.
  Json summary() const;
  std::vector<int32_t> ids(int layer) const { return slice(ids_.host(), layer, tokens_ * k_); }
  std::vector<float> plan_weights(int layer) const {
    return slice(weights_out_.host(), layer, tokens_ * k_);
  }

 private:
  template <typename T>
  static std::vector<T> slice(const std::vector<T>& all, int layer, int count) {
    const auto begin = all.begin() + static_cast<std::ptrdiff_t>(layer) * count;
    return {begin, begin + count};
  }
  cuda::RoutingLaunch launch(int layer) const;

  const Weights& weights_;
  Policy policy_;
  int tokens_, k_, experts_, hidden_, inter_, instances_;
  bool choice_, prefill_;
  DeviceArray<float> logits_, open_, slope_, weights_out_;
  DeviceArray<int32_t> first_, expert_, ids_, plan_instances_, offsets_, packed_;
  DeviceArray<double> kept_best_, kept_instance_;
  DeviceArray<uint8_t> changed_;
  DeviceArray<cuda::GpuRoutingReport> reports_;
  DeviceArray<DeviceExpert> table_;
  DeviceArray<__nv_bfloat16> x_, out_;
  cuda::DeviceBytes workspace_, routing_workspace_;
};

Runner::Runner(const CostShape& shape, const Weights& weights, const Policy& policy, int tokens,
               const std::vector<float>& errors)
    : weights_(weights),
      policy_(policy),
      tokens_(tokens),
      k_(shape.top_k),
      experts_(shape.experts),
      hidden_(static_cast<int>(shape.hidden_size)),
      inter_(static_cast<int>(shape.expert_inter_size)),
      instances_(shape.experts * static_cast<int>(policy.forms.size())),
      choice_(policy.forms.size() > 1),
      prefill_(policy.forms.back() == ExpertForm::kFp8 || tokens > kMostDecodeTokens),
      logits_(draw_logits(tokens, shape.experts)) {
  const size_t pairs = static_cast<size_t>(kLayers * tokens * k_);
  std::vector<DeviceExpert> table;
  std::vector<float> open;
  std::vector<int32_t> first{0}, expert;
  std::vector<double> kept_best, kept;
  for (int e = 0; e < experts_; ++e) {
    double best = 0;
    for (const ExpertForm form : policy.forms) {
      table.push_back(weights.of(e, form));
      open.push_back(policy.open *
                     static_cast<float>(weights.bytes(form) / weights.bytes(ExpertForm::kBf16)));
      expert.push_back(e);
      best = std::max(best, 1.0 - static_cast<double>(errors[static_cast<size_t>(form)]));
    }
    for (const ExpertForm form : policy.forms)
      kept.push_back((1.0 - static_cast<double>(errors[static_cast<size_t>(form)])) / best);
    kept_best.push_back(best);
    first.push_back(static_cast<int32_t>(table.size()));
  }
  table_ = DeviceArray<DeviceExpert>(table);
  open_ = DeviceArray<float>(open);
  slope_ = DeviceArray<float>(std::vector<float>(open.size(), 0.0f));
  first_ = DeviceArray<int32_t>(first);
  expert_ = DeviceArray<int32_t>(expert);
  kept_best_ = DeviceArray<double>(kept_best);
  kept_instance_ = DeviceArray<double>(kept);
  ids_ = DeviceArray<int32_t>(pairs);
  plan_instances_ = DeviceArray<int32_t>(pairs);
  packed_ = DeviceArray<int32_t>(pairs);
  weights_out_ = DeviceArray<float>(pairs);
  offsets_ = DeviceArray<int32_t>(static_cast<size_t>(kLayers * (instances_ + 1)));
  changed_ = DeviceArray<uint8_t>(static_cast<size_t>(kLayers * tokens));
  reports_ = DeviceArray<cuda::GpuRoutingReport>(kLayers);
  std::vector<__nv_bfloat16> x(static_cast<size_t>(tokens * hidden_));
  std::mt19937 random(3);
  std::normal_distribution<float> normal;
  for (auto& value : x) value = __float2bfloat16(normal(random));
  x_ = DeviceArray<__nv_bfloat16>(x);
  out_ = DeviceArray<__nv_bfloat16>(x.size());
  workspace_ = cuda::DeviceBytes(cuda::prefill_experts_workspace(tokens, k_, hidden_, inter_));
  workspace_.fill(0);
  routing_workspace_ = cuda::DeviceBytes(cuda::routing_workspace_bytes(launch(0)));
}

cuda::RoutingLaunch Runner::launch(int layer) const {
  const int pairs = layer * tokens_ * k_;
  cuda::RoutingLaunch launch;
  launch.input.scores = logits_.data() + static_cast<size_t>(layer * tokens_ * experts_);
  launch.input.tokens = tokens_;
  launch.input.experts = experts_;
  launch.input.k = k_;
  launch.input.gate = cuda::Gate::kSoftmax;
  if (choice_)
    launch.instances = {instances_,        first_.data(),         expert_.data(),
                        kept_best_.data(), kept_instance_.data(), true};
  launch.prices = {open_.data(), slope_.data(), nullptr};
  launch.mode = policy_.open > 0 || choice_ ? cuda::RoutingMode::kBatch : cuda::RoutingMode::kTopK;
  if (launch.mode == cuda::RoutingMode::kBatch && tokens_ > cuda::RoutingLaunch::kMostBatchTokens)
    launch.mode = cuda::RoutingMode::kPerToken;
  launch.output = {ids_.data() + pairs,
                   plan_instances_.data() + pairs,
                   weights_out_.data() + pairs,
                   changed_.data() + layer * tokens_,
                   offsets_.data() + layer * (instances_ + 1),
                   packed_.data() + pairs,
                   reports_.data() + layer};
  return launch;
}

void Runner::route(int layer, cudaStream_t stream) {
  check(cuda::launch_routing(launch(layer), routing_workspace_.data(), routing_workspace_.bytes(),
                             stream),
        "routing");
}

void Runner::run(int layer, cudaStream_t stream) {
  const cuda::RouterOutput plan = launch(layer).output;
  const cuda::DecodeExpertsArguments experts{
      tokens_,       k_,          hidden_,          inter_,       instances_,
      table_.data(), x_.data(),   plan.instances,   plan.weights, plan.offsets,
      plan.packed,   out_.data(), workspace_.data()};
  if (!prefill_) return check(cuda::decode_experts(experts, stream), "experts");
  const bool bf16 = policy_.forms.front() == ExpertForm::kBf16;
  const auto forms = choice_ ? cuda::PrefillForms::kBoth
                     : bf16  ? cuda::PrefillForms::kBf16
                             : cuda::PrefillForms::kFp8;
  check(cuda::prefill_experts(experts, forms, stream), "experts");
}

Json Runner::summary() const {
  const std::vector<int32_t> offsets = offsets_.host();
  double opened[4] = {0, 0, 0, 0}, bytes = 0;
  for (int layer = 0; layer < kLayers; ++layer)
    for (int i = 0; i < instances_; ++i) {
      const size_t at = static_cast<size_t>(layer * (instances_ + 1) + i);
      if (offsets[at + 1] == offsets[at]) continue;
      const ExpertForm form = policy_.forms[static_cast<size_t>(i) % policy_.forms.size()];
      opened[static_cast<size_t>(form)] += 1.0 / kLayers;
      bytes += weights_.bytes(form) / kLayers;
    }
  double changed = 0;
  for (const auto& report : reports_.host()) {
    cuda::check_report(report);
    changed += static_cast<double>(report.changed_tokens) / (kLayers * tokens_);
  }
  return {{"opened_bf16", opened[0]}, {"opened_int8", opened[1]}, {"opened_int4", opened[2]},
          {"opened_fp8", opened[3]},  {"bytes", bytes},           {"changed_tokens_frac", changed}};
}

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
    cudaGraph_t graph = nullptr;
    check(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal), "capturing");
    for (int layer = 0; layer < kLayers; ++layer) enqueue(layer);
    check(cudaStreamEndCapture(stream, &graph), "capturing");
    check(cudaGraphInstantiate(&executable_, graph, 0), "making a graph");
    cudaGraphDestroy(graph);
  }
  ~CapturedLayers() { cudaGraphExecDestroy(executable_); }
  CapturedLayers(const CapturedLayers&) = delete;
  CapturedLayers& operator=(const CapturedLayers&) = delete;
  void replay(int times) {
    for (int i = 0; i < times; ++i) check(cudaGraphLaunch(executable_, stream_), "replaying");
    check(cudaStreamSynchronize(stream_), "replaying");
  }

 private:
  cudaStream_t stream_;
  cudaGraphExec_t executable_ = nullptr;
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
