// A MoE layer in device memory and what routes and runs it: what gpu_headline times.
#pragma once

#include <cuda_bf16.h>
#include <cuda_runtime_api.h>

#include <cstdint>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "kernels/cuda/cuda_resources.h"
#include "kernels/cuda/prefill_experts.h"
#include "kernels/cuda/routing.h"
#include "kernels/cuda/synthetic.h"
#include "model/cuda_weights.h"
#include "thermoe/kernel_cost_model.h"
#include "thermoe/nested_view.h"

namespace thermoe::bench {

using cuda::check;
using cuda::DeviceArray;
using cuda::DeviceExpert;
using cuda::ExpertForm;
using Json = nlohmann::ordered_json;

constexpr int kLayers = 16;  // of a graph

// What of a layer's precisions a policy may choose from, and at which price of an expert in bf16.
struct Policy {
  std::string name;
  std::vector<ExpertForm> forms;
  float open = 0;
};

// "NAME:PRECISIONS:OPEN", as "thermoe:int8+int4:0.05". Throws InvalidArgument.
Policy parse_policy(const std::string& text);

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
  void make_instances(const std::vector<float>& errors);
  void make_buffers();
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

}  // namespace thermoe::bench
