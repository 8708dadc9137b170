#include "gpu_layer.h"

#include <algorithm>
#include <random>

#include "core/gzip_file.h"
#include "npy.h"
#include "paths.h"
#include "thermoe/error.h"

namespace thermoe::bench {
namespace {

constexpr int kMostDecodeTokens = 256;  // more are the prefill kernel's

constexpr ExpertForm kForms[] = {ExpertForm::kBf16, ExpertForm::kInt8, ExpertForm::kInt4,
                                 ExpertForm::kFp8};
const char* name_of(ExpertForm form) {
  constexpr const char* kNames[] = {"bf16", "int8", "int4", "fp8"};
  return kNames[static_cast<int>(form)];
}

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

}  // namespace

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
  make_instances(errors);
  make_buffers();
}

// Every expert in every precision of the policy.
void Runner::make_instances(const std::vector<float>& errors) {
  std::vector<DeviceExpert> table;
  std::vector<float> open;
  std::vector<int32_t> first{0}, expert;
  std::vector<double> kept_best, kept;
  for (int e = 0; e < experts_; ++e) {
    double best = 0;
    for (const ExpertForm form : policy_.forms) {
      table.push_back(weights_.of(e, form));
      open.push_back(policy_.open *
                     static_cast<float>(weights_.bytes(form) / weights_.bytes(ExpertForm::kBf16)));
      expert.push_back(e);
      best = std::max(best, 1.0 - static_cast<double>(errors[static_cast<size_t>(form)]));
    }
    for (const ExpertForm form : policy_.forms)
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
}

void Runner::make_buffers() {
  const size_t pairs = static_cast<size_t>(kLayers * tokens_ * k_);
  ids_ = DeviceArray<int32_t>(pairs);
  plan_instances_ = DeviceArray<int32_t>(pairs);
  packed_ = DeviceArray<int32_t>(pairs);
  weights_out_ = DeviceArray<float>(pairs);
  offsets_ = DeviceArray<int32_t>(static_cast<size_t>(kLayers * (instances_ + 1)));
  changed_ = DeviceArray<uint8_t>(static_cast<size_t>(kLayers * tokens_));
  reports_ = DeviceArray<cuda::GpuRoutingReport>(kLayers);
  std::vector<__nv_bfloat16> x(static_cast<size_t>(tokens_ * hidden_));
  std::mt19937 random(3);
  std::normal_distribution<float> normal;
  for (auto& value : x) value = __float2bfloat16(normal(random));
  x_ = DeviceArray<__nv_bfloat16>(x);
  out_ = DeviceArray<__nv_bfloat16>(x.size());
  workspace_ = cuda::DeviceBytes(cuda::prefill_experts_workspace(tokens_, k_, hidden_, inter_));
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

}  // namespace thermoe::bench
