#include "model/cuda_weights.h"

#include <fmt/format.h>

#include <algorithm>
#include <bit>
#include <cmath>

#include "kernels/cpu/elementwise.h"
#include "kernels/cuda/attention.h"
#include "kernels/cuda/prefill_experts.h"
#include "kernels/cuda/routing.h"
#include "thermoe/error.h"

namespace thermoe {
namespace {

// To the nearest, ties to even. A weight is finite (Checkpoint::check_finite).
uint16_t to_bf16(float value) {
  const uint32_t bits = std::bit_cast<uint32_t>(value);
  return static_cast<uint16_t>((bits + 0x7FFFu + ((bits >> 16) & 1u)) >> 16);
}

// Rows of a stored weight as bf16 to `to` in device memory.
void upload_rows(const WeightView& weight, __nv_bfloat16* to) {
  const size_t count = static_cast<size_t>(weight.rows * weight.cols);
  if (weight.dtype == DType::kBf16) {
    cuda::check(cudaMemcpy(to, weight.data, 2 * count, cudaMemcpyHostToDevice),
                "uploading weights");
    return;
  }
  std::vector<float> row(static_cast<size_t>(weight.cols));
  std::vector<uint16_t> rounded;
  rounded.reserve(count);
  for (int64_t r = 0; r < weight.rows; ++r) {
    cpu::widen_row(weight, r, row.data());
    for (const float value : row) rounded.push_back(to_bf16(value));
  }
  cuda::check(cudaMemcpy(to, rounded.data(), 2 * count, cudaMemcpyHostToDevice),
              "uploading weights");
}

CudaBf16 upload(std::initializer_list<const WeightView*> weights) {
  size_t count = 0;
  for (const WeightView* w : weights) count += static_cast<size_t>(w->rows * w->cols);
  CudaBf16 all(count);
  size_t at = 0;
  for (const WeightView* w : weights) {
    upload_rows(*w, all.data() + at);
    at += static_cast<size_t>(w->rows * w->cols);
  }
  return all;
}

CudaFloats upload(std::initializer_list<const std::vector<float>*> parts) {
  std::vector<float> all;
  for (const std::vector<float>* part : parts) all.insert(all.end(), part->begin(), part->end());
  return CudaFloats(all);
}

// Sizes of an expert's arrays in fp8, in the order in which they lie.
struct Fp8Sizes {
  Fp8Sizes(int64_t hidden, int64_t inter)
      : gate_up(int64_t{cuda::padded_128(static_cast<int>(inter))} *
                cuda::padded_128(static_cast<int>(hidden))),
        gate_up_scales(8 * int64_t{cuda::padded_128(static_cast<int>(inter))}),
        down(hidden / 2 * cuda::padded_128(static_cast<int>(inter))),
        down_scales(4 * hidden) {}
  int64_t gate_up, gate_up_scales, down, down_scales;
};

int64_t bytes_of(const ExpertWeights& expert, bool fp8) {
  int64_t bytes = 0;
  if (fp8 && expert.stored)
    bytes += fp8_expert_bytes(expert.stored->hidden_size(), expert.stored->inter_size());
  if (expert.stored) {
    const int64_t values = expert.stored->hidden_size() * expert.stored->inter_size();
    bytes += 2 * matrix_bytes(2 * values) + 2 * matrix_bytes(values);
  }
  if (expert.quantized)
    for (const NestedView* view : {&expert.quantized->gate_up(), &expert.quantized->down()})
      bytes += 2 * matrix_bytes(view->blocks() * NestedView::kPlaneBlockBytes) +
               matrix_bytes(view->blocks() * NestedView::kScaleBlockBytes);
  return bytes;
}

// Hands out pieces of a layer's memory and fills them.
class ExpertUpload {
 public:
  ExpertUpload(CudaExperts& experts, int64_t bytes, int64_t hidden, int64_t inter)
      : experts_(experts),
        hidden_(hidden),
        inter_(inter),
        staging_(static_cast<size_t>(3 * hidden * inter)) {
    experts_.inter = static_cast<int>(inter);
    experts_.memory = cuda::DeviceBytes(static_cast<size_t>(bytes));
  }

  void add(const ExpertWeights& expert, bool fp8) {
    std::array<cuda::DeviceExpert, kPrecisions> forms{};
    if (expert.stored) {
      forms[static_cast<size_t>(Precision::kStored)] = stored(*expert.stored);
      if (fp8) forms[static_cast<size_t>(Precision::kFp8)] = staged_in_fp8();
    }
    if (expert.quantized) {
      cuda::DeviceExpert& int8 = forms[static_cast<size_t>(Precision::kInt8)];
      int8 = nested(*expert.quantized);
      forms[static_cast<size_t>(Precision::kInt4)] = int8;
      forms[static_cast<size_t>(Precision::kInt4)].form = cuda::ExpertForm::kInt4;
    }
    experts_.forms.push_back(forms);
  }

 private:
  uint8_t* take(int64_t bytes) {
    uint8_t* piece = reinterpret_cast<uint8_t*>(experts_.memory.data()) + used_;
    used_ += matrix_bytes(bytes);
    return piece;
  }

  cuda::DeviceExpert stored(const SimpleExpert& expert) {
    const int hidden = static_cast<int>(hidden_), inter = static_cast<int>(inter_);
    const int64_t values = hidden_ * inter_;
    __nv_bfloat16* gate = staging_.data();
    __nv_bfloat16 *up = gate + values, *down = up + values;
    upload_rows(expert.gate(), gate);
    upload_rows(expert.up(), up);
    upload_rows(expert.down(), down);
    uint8_t *upper = take(2 * values), *lower = take(2 * values);
    uint8_t *down_upper = take(values), *down_lower = take(values);
    cuda::check(cuda::pack_gate_up(gate, up, hidden, inter, upper, lower, nullptr),
                "packing an expert");
    cuda::check(cuda::pack_down(down, hidden, inter, down_upper, down_lower, nullptr),
                "packing an expert");
    cuda::DeviceExpert packed;
    packed.form = cuda::ExpertForm::kBf16;
    packed.gate_up.data = upper;
    packed.gate_up.lo = lower;
    packed.down.data = down_upper;
    packed.down.lo = down_lower;
    return packed;
  }

  // Of the expert that stored() has just staged.
  cuda::DeviceExpert staged_in_fp8() {
    const int64_t values = hidden_ * inter_;
    const __nv_bfloat16* gate = staging_.data();
    return pack_fp8_expert(gate, gate + values, gate + 2 * values, static_cast<int>(hidden_),
                           static_cast<int>(inter_), take(fp8_expert_bytes(hidden_, inter_)));
  }

  const uint8_t* copy(const uint8_t* from, int64_t bytes) {
    uint8_t* to = take(bytes);
    cuda::check(cudaMemcpy(to, from, static_cast<size_t>(bytes), cudaMemcpyHostToDevice),
                "uploading planes");
    return to;
  }

  cuda::DeviceWeight planes(const NestedView& view) {
    const int64_t bytes = view.blocks() * NestedView::kPlaneBlockBytes;
    cuda::DeviceWeight weight;
    weight.data = copy(view.hi, bytes);
    weight.lo = copy(view.lo, bytes);
    weight.scales = copy(view.scales, view.blocks() * NestedView::kScaleBlockBytes);
    weight.base = view.base;
    weight.plane_ratio = static_cast<float>(view.plane_ratio);
    return weight;
  }

  cuda::DeviceExpert nested(const QuantizedExpert& expert) {
    return {cuda::ExpertForm::kInt8, planes(expert.gate_up()), planes(expert.down())};
  }

  CudaExperts& experts_;
  int64_t hidden_, inter_, used_ = 0;
  CudaBf16 staging_;
};

std::vector<ExpertWeights> experts_of(const LayerWeights& layer) {
  std::vector<ExpertWeights> experts;
  if (layer.moe)
    for (int e = 0; e < layer.moe->experts(); ++e) experts.push_back(layer.moe->expert(e));
  else
    experts.push_back({layer.dense.front(), std::nullopt});
  return experts;
}

CudaExperts upload_experts(const LayerWeights& layer, bool fp8) {
  const std::vector<ExpertWeights> experts = experts_of(layer);
  int64_t bytes = 0;
  for (const ExpertWeights& expert : experts) bytes += bytes_of(expert, fp8);
  CudaExperts uploaded;
  ExpertUpload upload(uploaded, bytes, experts.front().hidden_size(), experts.front().inter_size());
  for (const ExpertWeights& expert : experts) upload.add(expert, fp8);
  cuda::check(cudaDeviceSynchronize(), "packing experts");  // before the staging goes
  return uploaded;
}

int64_t device_bytes(const WeightView& weight) {
  return matrix_bytes(2 * weight.rows * weight.cols);
}

// What does not fit is refused before anything is copied; vectors count for nothing.
void check_memory(const TransformerWeights& weights, bool tied, bool fp8) {
  int64_t bytes = device_bytes(weights.embeddings) + (tied ? 0 : device_bytes(weights.head));
  for (const LayerWeights& layer : weights.layers) {
    const AttentionWeights& a = layer.attention;
    for (const WeightView* w : {&a.q, &a.k, &a.v, &a.o}) bytes += device_bytes(*w);
    if (layer.moe) bytes += device_bytes(layer.moe->gate());
    for (const ExpertWeights& expert : experts_of(layer))
      bytes += bytes_of(expert, fp8 && layer.moe);
  }
  size_t unused = 0, total = 0;
  cuda::check(cudaMemGetInfo(&unused, &total), "asking for the GPU's memory");
  if (static_cast<size_t>(bytes) > unused)
    throw InvalidArgument(fmt::format(
        "the model's weights need {:.1f} GiB of GPU memory, of which {:.1f} are free: use a GPU "
        "with more, a quantised checkpoint (thermoe quantize), or --device cpu",
        static_cast<double>(bytes) / (1 << 30), static_cast<double>(unused) / (1 << 30)));
}

CudaAttentionWeights upload_attention(const AttentionWeights& from) {
  CudaAttentionWeights to;
  to.qkv = upload({&from.q, &from.k, &from.v});
  to.o = upload({&from.o});
  if (!from.q_bias.empty()) {
    to.qkv_bias = upload({&from.q_bias, &from.k_bias, &from.v_bias});
    to.o_bias = upload({&from.o_bias});
  }
  if (!from.q_norm.empty()) {
    to.q_norm = upload({&from.q_norm});
    to.k_norm = upload({&from.k_norm});
  }
  return to;
}

}  // namespace

int64_t fp8_expert_bytes(int64_t hidden, int64_t inter) {
  const Fp8Sizes sizes(hidden, inter);
  return 2 * matrix_bytes(sizes.gate_up) + matrix_bytes(sizes.gate_up_scales) +
         2 * matrix_bytes(sizes.down) + matrix_bytes(sizes.down_scales);
}

cuda::DeviceExpert pack_fp8_expert(const __nv_bfloat16* gate, const __nv_bfloat16* up,
                                   const __nv_bfloat16* down, int hidden, int inter, uint8_t* to) {
  const Fp8Sizes sizes(hidden, inter);
  const auto take = [&to](int64_t bytes) {
    uint8_t* piece = to;
    to += matrix_bytes(bytes);
    return piece;
  };
  uint8_t *upper = take(sizes.gate_up), *lower = take(sizes.gate_up);
  uint8_t* scales = take(sizes.gate_up_scales);
  uint8_t *down_upper = take(sizes.down), *down_lower = take(sizes.down);
  uint8_t* down_scales = take(sizes.down_scales);
  cuda::check(cuda::pack_gate_up_fp8(gate, up, hidden, inter, upper, lower,
                                     reinterpret_cast<float*>(scales), nullptr),
              "packing an expert in fp8");
  cuda::check(cuda::pack_down_fp8(down, hidden, inter, down_upper, down_lower,
                                  reinterpret_cast<float*>(down_scales), nullptr),
              "packing an expert in fp8");
  cuda::DeviceExpert packed;
  packed.form = cuda::ExpertForm::kFp8;
  packed.gate_up.data = upper;
  packed.gate_up.lo = lower;
  packed.gate_up.scales = scales;
  packed.down.data = down_upper;
  packed.down.lo = down_lower;
  packed.down.scales = down_scales;
  return packed;
}

void check_cuda_model(const ModelConfig& config) {
  const auto refuse = [](const std::string& what) {
    throw InvalidArgument("the GPU's kernels can't run this model: " + what + "; use --device cpu");
  };
  if (!cuda::attention_takes(config.head_dim))
    refuse(fmt::format("head_dim {} is not 32, 64, 96 or 128", config.head_dim));
  if (cuda::rows_of_unit(config.heads, config.kv_heads) < 1)
    refuse(fmt::format("{} query heads share {} key-value heads, more than 16 each", config.heads,
                       config.kv_heads));
  const bool dense =
      std::find(config.sparse.begin(), config.sparse.end(), false) != config.sparse.end();
  for (const int64_t size :
       {config.hidden_size, config.expert_inter_size, dense ? config.inter_size : int64_t{32}})
    if (size % 32 != 0) refuse(fmt::format("an expert's size {} is no multiple of 32", size));
  if (config.experts > cuda::RoutingLaunch::kMostExperts)
    refuse(fmt::format("{} experts are more than {}", config.experts,
                       cuda::RoutingLaunch::kMostExperts));
  if (config.top_k > cuda::RoutingLaunch::kMostSlots)
    refuse(fmt::format("{} experts a token are more than {}", config.top_k,
                       cuda::RoutingLaunch::kMostSlots));
}

CudaWeights upload_weights(const ModelConfig& config, const TransformerWeights& weights, bool fp8) {
  check_cuda_model(config);
  check_memory(weights, config.tied_embeddings, fp8);
  CudaWeights to;
  to.embeddings = upload({&weights.embeddings});
  if (!config.tied_embeddings) to.own_head = upload({&weights.head});
  to.final_norm = upload({&weights.final_norm});
  to.frequencies = CudaFloats(rope_frequencies(config));
  for (const LayerWeights& from : weights.layers) {
    CudaLayerWeights layer;
    layer.attention_norm = upload({&from.attention_norm});
    layer.ffn_norm = upload({&from.ffn_norm});
    layer.attention = upload_attention(from.attention);
    if (from.moe) layer.gate = upload({&from.moe->gate()});
    layer.experts = upload_experts(from, fp8 && from.moe);
    to.layers.push_back(std::move(layer));
  }
  return to;
}

}  // namespace thermoe
