// make_synthetic_model: random weights in the order in which the kernels read them; as nothing is
// known of them, they need no packing.
#include <fmt/format.h>

#include <cmath>

#include "kernels/cuda/synthetic.h"
#include "model/cuda_model.h"
#include "model/cuda_pass.h"
#include "thermoe/cuda_transformer.h"
#include "thermoe/error.h"
#include "thermoe/nested_view.h"

namespace thermoe {
namespace {

constexpr int64_t kSpareBytes = int64_t{6} << 30;  // for activations, caches and plans
constexpr int64_t kLongest = 32768;                // positions
// Scales of about 1 (nested_view.h): codes 0x20 to 0x37 are 0.5 to 2.
constexpr int kLowScale = 0x20, kHighScale = 0x37;
constexpr float kPlaneRatio = 12;  // of what thermoe quantize writes

ModelConfig config_of(const SyntheticModel& model) {
  const CostShape& shape = model.shape;
  ModelConfig config;
  config.vocab_size = shape.vocabulary;
  config.hidden_size = shape.hidden_size;
  config.inter_size = config.expert_inter_size = shape.expert_inter_size;
  config.layers = model.layers > 0 ? model.layers : shape.layers;
  config.heads = static_cast<int>(shape.heads);
  config.kv_heads = static_cast<int>(shape.kv_heads);
  config.head_dim = shape.head_dim;
  config.experts = shape.experts;
  config.top_k = shape.top_k;
  config.qk_norm = shape.qk_norm ? QkNorm::kPerHead : QkNorm::kNone;
  config.max_positions = kLongest;
  config.sparse.assign(static_cast<size_t>(config.layers), true);
  return config;
}

struct MatrixSize {
  int64_t rows, cols;
  int64_t values() const { return rows * cols; }
  int64_t plane_bytes() const {
    return (rows + 31) / 32 * ((cols + 31) / 32) * NestedView::kPlaneBlockBytes;
  }
  int64_t scale_bytes() const {
    return (rows + 31) / 32 * ((cols + 31) / 32) * NestedView::kScaleBlockBytes;
  }
};

struct ExpertSize {
  explicit ExpertSize(const ModelConfig& config)
      : gate_up{2 * config.expert_inter_size, config.hidden_size},
        down{config.hidden_size, config.expert_inter_size} {}
  MatrixSize gate_up, down;

  int64_t stored_bytes() const { return 2 * (gate_up.values() + down.values()); }
  int64_t nested_bytes(bool both) const {
    return (both ? 2 : 1) * (gate_up.plane_bytes() + down.plane_bytes()) + gate_up.scale_bytes() +
           down.scale_bytes();
  }
};

// What an expert is held in: int8 and int4 are one copy.
struct Held {
  explicit Held(const SyntheticModel& model) {
    for (const Precision precision : model.precisions) {
      stored = stored || precision == Precision::kStored;
      fp8 = fp8 || precision == Precision::kFp8;
      nested = nested || precision == Precision::kInt8 || precision == Precision::kInt4;
    }
  }
  bool stored = false, fp8 = false, nested = false;
};

int64_t layer_bytes(const SyntheticModel& model, const ModelConfig& config) {
  const ExpertSize size(config);
  const Held held(model);
  int64_t expert = 0;
  if (held.stored) expert += matrix_bytes(size.stored_bytes()) + 4 * kMatrixAlignment;
  if (held.fp8) expert += fp8_expert_bytes(config.hidden_size, config.expert_inter_size);
  if (held.nested) expert += matrix_bytes(size.nested_bytes(true)) + 6 * kMatrixAlignment;
  return expert * config.experts + 2 * model.shape.dense_params_per_layer();
}

void check_memory(const SyntheticModel& model, const ModelConfig& config) {
  size_t unused = 0, total = 0;
  cuda::check(cudaMemGetInfo(&unused, &total), "asking for the GPU's memory");
  const int64_t layer = layer_bytes(model, config);
  const int64_t head = 4 * config.vocab_size * config.hidden_size;
  const int64_t room = static_cast<int64_t>(unused) - kSpareBytes - head;
  if (layer * config.layers <= room) return;
  throw InvalidArgument(fmt::format(
      "{} layers of {} need {:.1f} GiB of GPU memory, of which {:.1f} are free beside "
      "activations: use {}{}:layers={} or fewer precisions",
      config.layers, model.shape.name, static_cast<double>(layer * config.layers) / (1 << 30),
      static_cast<double>(room) / (1 << 30), kSyntheticPrefix, model.shape.name,
      std::max<int64_t>(room / layer, 0)));
}

// Makes the weights, each matrix with a seed of its own.
class Maker {
 public:
  CudaBf16 matrix(int64_t rows, int64_t cols) {
    CudaBf16 values(static_cast<size_t>(rows * cols));
    fill(reinterpret_cast<uint8_t*>(values.data()), rows * cols, cols);
    return values;
  }
  static CudaFloats ones(int64_t count) {
    return CudaFloats(std::vector<float>(static_cast<size_t>(count), 1.0f));
  }
  CudaExperts experts(const SyntheticModel& model, const ModelConfig& config, int64_t bytes);

 private:
  void fill(uint8_t* to, int64_t values, int64_t inputs) {
    cuda::check(cuda::fill_random(reinterpret_cast<__nv_bfloat16*>(to), values,
                                  1.0f / std::sqrt(static_cast<float>(inputs)), ++seed_, nullptr),
                "making weights");
  }
  uint8_t* take(int64_t bytes) {
    uint8_t* piece = next_;
    next_ += matrix_bytes(bytes);
    return piece;
  }
  cuda::DeviceWeight stored(const MatrixSize& size) {
    cuda::DeviceWeight weight;
    uint8_t* halves[2] = {take(size.values()), take(size.values())};
    for (uint8_t* half : halves) fill(half, size.values() / 2, size.cols);
    weight.data = halves[0];
    weight.lo = halves[1];
    return weight;
  }
  cuda::DeviceWeight nested(const MatrixSize& size) {
    cuda::DeviceWeight weight;
    const auto bytes = [this](int64_t count, int low, int high) {
      uint8_t* piece = take(count);
      cuda::check(cuda::fill_random_bytes(piece, count, low, high, ++seed_, nullptr),
                  "making weights");
      return piece;
    };
    weight.data = bytes(size.plane_bytes(), 0, 255);
    weight.lo = bytes(size.plane_bytes(), 0, 255);
    weight.scales = bytes(size.scale_bytes(), kLowScale, kHighScale);
    weight.plane_ratio = kPlaneRatio;
    // hi is uniform in [-8, 7]: its deviation times the ratio is about 55.
    weight.base = 1.0f / (55.0f * std::sqrt(static_cast<float>(size.cols)));
    return weight;
  }

  cuda::DeviceExpert fp8(const ModelConfig& config) {
    const int64_t hidden = config.hidden_size, inter = config.expert_inter_size;
    if (staging_.size() == 0) staging_ = CudaBf16(static_cast<size_t>(3 * hidden * inter));
    uint8_t* bytes = reinterpret_cast<uint8_t*>(staging_.data());
    fill(bytes, 2 * hidden * inter, hidden);
    fill(bytes + 4 * hidden * inter, hidden * inter, inter);
    const __nv_bfloat16* gate = staging_.data();
    return pack_fp8_expert(gate, gate + hidden * inter, gate + 2 * hidden * inter,
                           static_cast<int>(hidden), static_cast<int>(inter),
                           take(fp8_expert_bytes(hidden, inter)));
  }

  CudaBf16 staging_;
  uint32_t seed_ = 0;
  uint8_t* next_ = nullptr;
};

CudaExperts Maker::experts(const SyntheticModel& model, const ModelConfig& config, int64_t bytes) {
  const ExpertSize size(config);
  const Held held(model);
  CudaExperts experts;
  experts.inter = static_cast<int>(config.expert_inter_size);
  experts.memory = cuda::DeviceBytes(static_cast<size_t>(bytes));
  next_ = reinterpret_cast<uint8_t*>(experts.memory.data());
  for (int e = 0; e < config.experts; ++e) {
    std::array<cuda::DeviceExpert, kPrecisions> forms{};
    if (held.stored)
      forms[static_cast<size_t>(Precision::kStored)] = {cuda::ExpertForm::kBf16,
                                                        stored(size.gate_up), stored(size.down)};
    if (held.fp8) forms[static_cast<size_t>(Precision::kFp8)] = fp8(config);
    if (held.nested) {
      cuda::DeviceExpert int8{cuda::ExpertForm::kInt8, nested(size.gate_up), nested(size.down)};
      forms[static_cast<size_t>(Precision::kInt8)] = int8;
      int8.form = cuda::ExpertForm::kInt4;
      forms[static_cast<size_t>(Precision::kInt4)] = int8;
    }
    experts.forms.push_back(forms);
  }
  return experts;
}

CudaWeights weights_of(const SyntheticModel& model, const ModelConfig& config) {
  Maker maker;
  CudaWeights weights;
  const int64_t hidden = config.hidden_size;
  const int64_t q = config.heads * config.head_dim, kv = config.kv_heads * config.head_dim;
  weights.embeddings = maker.matrix(config.vocab_size, hidden);
  weights.own_head = maker.matrix(config.vocab_size, hidden);
  weights.final_norm = Maker::ones(hidden);
  weights.frequencies = CudaFloats(rope_frequencies(config));
  for (int l = 0; l < config.layers; ++l) {
    CudaLayerWeights layer;
    layer.attention_norm = Maker::ones(hidden);
    layer.ffn_norm = Maker::ones(hidden);
    layer.attention.qkv = maker.matrix(q + 2 * kv, hidden);
    layer.attention.o = maker.matrix(hidden, q);
    if (config.qk_norm == QkNorm::kPerHead) {
      layer.attention.q_norm = Maker::ones(config.head_dim);
      layer.attention.k_norm = Maker::ones(config.head_dim);
    }
    layer.gate = maker.matrix(config.experts, hidden);
    layer.experts = maker.experts(model, config, layer_bytes(model, config));
    weights.layers.push_back(std::move(layer));
  }
  cuda::check(cudaDeviceSynchronize(), "making weights");
  return weights;
}

LayerVariants variants_of(const SyntheticModel& model, const ModelConfig& config) {
  const ExpertSize size(config);
  const size_t experts = static_cast<size_t>(config.experts);
  LayerVariants variants;
  const Held held(model);
  variants.stored.assign(experts, held.stored);
  variants.quantized.assign(experts, held.nested);
  variants.stored_bytes = static_cast<double>(size.stored_bytes());
  variants.int8_bytes = static_cast<double>(size.nested_bytes(true));
  variants.int4_bytes = static_cast<double>(size.nested_bytes(false));
  if (held.fp8) {
    variants.fp8.assign(experts, 1);
    variants.fp8_error_frac = kFp8ErrorFrac;
    variants.fp8_bytes =
        static_cast<double>(fp8_expert_bytes(config.hidden_size, config.expert_inter_size));
  }
  if (!held.nested) return variants;
  const auto error = [&](Precision p) { return model.error_frac[static_cast<size_t>(p)]; };
  variants.int8_error_frac.assign(experts, error(Precision::kInt8));
  variants.int4_error_frac.assign(experts, error(Precision::kInt4));
  return variants;
}

}  // namespace

std::unique_ptr<LanguageModel> make_synthetic_model(const SyntheticModel& model) {
  const ModelConfig config = config_of(model);
  check_cuda_model(config);
  check_cuda_device();
  check_memory(model, config);
  if (Held(model).fp8 && !has_warpgroup_products())
    throw InvalidArgument("fp8 needs a GPU of compute capability 9.0: leave it out of --variants");
  return make_cuda_model(
      config, weights_of(model, config),
      std::vector<LayerVariants>(static_cast<size_t>(config.layers), variants_of(model, config)),
      model.routing);
}

}  // namespace thermoe
