// Batches to route, and the plan that the GPU makes of them, copied back.
#pragma once

#include <cmath>
#include <optional>
#include <random>
#include <string>
#include <vector>

#include "kernels/cuda/cuda_resources.h"
#include "kernels/cuda/routing.h"
#include "routing/utility.h"
#include "thermoe/expert_layout.h"
#include "thermoe/expert_prices.h"
#include "thermoe/routing_policy.h"

namespace thermoe::test {

// One batch as the CPU's policies take it.
struct GpuCase {
  int tokens = 1, experts = 8, k = 1;
  std::vector<float> scores;  // [T, E]
  std::optional<ExpertLayout> layout;
  ExpertPrices prices;
  UtilityModel utility;
  bool renormalize = true;
  std::string name;  // for messages

  int instances() const { return layout ? layout->count() : experts; }
  RoutingRequest request() const {
    return {.scores = {scores.data(), tokens, experts, experts},
            .k = k,
            .renormalize = renormalize,
            .prices = &prices,
            .layout = layout ? &*layout : nullptr};
  }
};

// Softmax of normal logits, with some experts that many tokens like.
inline std::vector<float> gate_scores(int tokens, int experts, std::mt19937& random) {
  std::normal_distribution<float> normal(0.0f, 1.5f);
  std::vector<float> liked(static_cast<size_t>(experts));
  for (float& value : liked) value = 0.5f * normal(random);
  std::vector<float> scores;
  scores.reserve(static_cast<size_t>(tokens) * liked.size());
  for (int t = 0; t < tokens; ++t) {
    const size_t begin = scores.size();
    float sum = 0;
    for (const float value : liked) {
      scores.push_back(std::exp(normal(random) + value));
      sum += scores.back();
    }
    for (size_t at = begin; at < scores.size(); ++at) scores[at] /= sum;
  }
  return scores;
}

// Rounds to few different values, so that there are ties. Every token keeps some score.
inline void quantize(std::vector<float>& scores, int experts, int levels) {
  const float step = 1.0f / static_cast<float>(levels);
  for (float& score : scores) score = std::round(score / step) * step;
  for (size_t at = 0; at < scores.size(); at += static_cast<size_t>(experts)) scores[at] += step;
}

// Experts in one to three variants, with errors; every second layout has measured ones.
inline ExpertLayout varied_layout(int experts, int most_instances, std::mt19937& random) {
  std::vector<ExpertInstance> instances;
  int left = most_instances;
  for (int32_t e = 0; e < experts; ++e) {
    const int others = experts - 1 - e;
    const int count = std::min(1 + static_cast<int>(random() % 3), left - others);
    for (int32_t v = 3 - count; v < 3; ++v) instances.push_back({e, v, 0});
    left -= count;
  }
  ExpertLayout layout =
      ExpertLayout::of_instances(experts, 1,
                                 {{.name = "bf16", .error_frac = 0, .read_frac = 1},
                                  {.name = "int8", .error_frac = 0.002f, .read_frac = 0.516f},
                                  {.name = "int4", .error_frac = 0.05f, .read_frac = 0.266f}},
                                 instances);
  if (random() % 2 == 0) return layout;
  std::uniform_real_distribution<float> uniform(0.5f, 1.5f);
  for (int i = 0; i < layout.count(); ++i)
    layout.error_frac.push_back(layout.variant_of(i).error_frac * uniform(random));
  return layout;
}

// A plan on the host and what else the launch reported.
struct GpuPlan {
  std::vector<int32_t> ids, instances, offsets, packed;
  std::vector<float> weights;
  std::vector<uint8_t> changed;
  cuda::GpuRoutingReport report;
};

// Device memory for one shape; the outputs are poisoned before every run.
class GpuRouter {
 public:
  explicit GpuRouter(const GpuCase& batch, cuda::RoutingMode mode)
      : scores_(batch.scores),
        open_(filled(batch.prices.open, batch.instances())),
        slope_(filled(batch.prices.slope, batch.instances())) {
    const size_t pairs = static_cast<size_t>(batch.tokens) * static_cast<size_t>(batch.k);
    const size_t count = static_cast<size_t>(batch.instances());
    ids_ = cuda::DeviceArray<int32_t>(pairs);
    instances_ = cuda::DeviceArray<int32_t>(pairs);
    packed_ = cuda::DeviceArray<int32_t>(pairs);
    weights_ = cuda::DeviceArray<float>(pairs);
    changed_ = cuda::DeviceArray<uint8_t>(static_cast<size_t>(batch.tokens));
    offsets_ = cuda::DeviceArray<int32_t>(count + 1);
    report_ = cuda::DeviceArray<cuda::GpuRoutingReport>(1);
    launch.input = {.scores = scores_.data(),
                    .tokens = batch.tokens,
                    .experts = batch.experts,
                    .k = batch.k,
                    .renormalize = batch.renormalize};
    launch.prices = {.open = open_.data(), .slope = slope_.data()};
    launch.mode = mode;
    launch.utility_power = batch.utility.power;
    launch.output = {ids_.data(),     instances_.data(), weights_.data(), changed_.data(),
                     offsets_.data(), packed_.data(),    report_.data()};
    if (!batch.utility.scale.empty()) {
      scale_ = cuda::DeviceArray<float>(batch.utility.scale.front());
      launch.utility_scale = scale_.data();
    }
    if (batch.layout) lay_out(batch);
    workspace_ = cuda::DeviceBytes(cuda::routing_workspace_bytes(launch));
  }

  cuda::RoutingLaunch launch;

  cudaError_t enqueue(cudaStream_t stream) const {
    return cuda::launch_routing(launch, workspace_.data(), workspace_.bytes(), stream);
  }
  // Changes the prices in place, as whoever replays a graph does.
  void upload_open(const std::vector<float>& prices) {
    cuda::check(cudaMemcpy(open_.data(), prices.data(), prices.size() * sizeof(float),
                           cudaMemcpyHostToDevice),
                "copying prices");
  }
  void poison() {
    ids_.fill(0xA5);
    instances_.fill(0xA5);
    packed_.fill(0xA5);
    weights_.fill(0xA5);
    changed_.fill(0xA5);
    offsets_.fill(0xA5);
    report_.fill(0xA5);
    if (workspace_.bytes() > 0) workspace_.fill(0xA5);
  }
  GpuPlan plan() const {
    return {ids_.host(),     instances_.host(), offsets_.host(),       packed_.host(),
            weights_.host(), changed_.host(),   report_.host().front()};
  }
  GpuPlan run() {
    poison();
    cuda::check(enqueue(nullptr), "routing");
    cuda::check(cudaDeviceSynchronize(), "routing");
    return plan();
  }

 private:
  static cuda::DeviceArray<float> filled(const std::vector<float>& prices, int count) {
    return cuda::DeviceArray<float>(
        prices.empty() ? std::vector<float>(static_cast<size_t>(count), 0.0f) : prices);
  }
  void lay_out(const GpuCase& batch) {
    KeptUtility kept;
    kept.read(batch.utility, &*batch.layout, batch.experts);
    std::vector<int32_t> experts;
    for (const ExpertInstance& i : batch.layout->instances) experts.push_back(i.expert);
    first_ = cuda::DeviceArray<int32_t>(batch.layout->first);
    expert_ = cuda::DeviceArray<int32_t>(experts);
    kept_best_ = cuda::DeviceArray<double>(kept.best);
    kept_instance_ = cuda::DeviceArray<double>(kept.instance);
    launch.instances = {.count = batch.layout->count(),
                        .first = first_.data(),
                        .expert = expert_.data(),
                        .kept_best = kept_best_.data(),
                        .kept_instance = kept_instance_.data(),
                        .kept_even = kept.even};
  }

  cuda::DeviceArray<float> scores_, open_, slope_, scale_, weights_;
  cuda::DeviceArray<int32_t> ids_, instances_, packed_, offsets_, first_, expert_;
  cuda::DeviceArray<double> kept_best_, kept_instance_;
  cuda::DeviceArray<uint8_t> changed_;
  cuda::DeviceArray<cuda::GpuRoutingReport> report_;
  cuda::DeviceBytes workspace_;
};

}  // namespace thermoe::test
