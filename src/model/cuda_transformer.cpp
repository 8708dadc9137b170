#include <fmt/format.h>

#include <algorithm>
#include <functional>
#include <map>
#include <numeric>
#include <tuple>

#include "experts/moe_workspace.h"
#include "kernels/cuda/devices.h"
#include "model/batch_check.h"
#include "model/cuda_model.h"
#include "model/cuda_pass.h"
#include "model/cuda_router.h"
#include "thermoe/cuda_transformer.h"
#include "thermoe/error.h"

namespace thermoe {
namespace {

constexpr size_t kMostGraphs = 16;
constexpr int kLoggedSteps = 1024;  // decoded before the host reads what was sampled

// What a captured step has fixed: batch, cache, mode, how it samples, and each layer's kernel.
using GraphKey = std::tuple<int, uint64_t, cuda::RoutingMode, float, double, uint64_t,
                            std::vector<ExpertKernel>>;

class CudaTransformer : public LanguageModel {
 public:
  CudaTransformer(const ModelConfig& config, CudaWeights weights,
                  std::vector<LayerVariants> variants, const LogitTable& routing)
      : config_(config),
        weights_(std::move(weights)),
        recorded_(routing.logits),
        pass_(config_, weights_),
        variants_(std::move(variants)),
        instances_(static_cast<size_t>(config.layers)),
        prices_(config.layers, kPrecisions * config.experts) {
    if (!routing.logits.empty())
      pass_.draw_from({recorded_.data(), routing.layers, routing.rows, routing.experts});
  }

  const ModelConfig& config() const override { return config_; }
  const std::vector<LayerVariants>& variants() const override { return variants_; }
  std::unique_ptr<SequenceCache> make_cache(int sequences, int64_t max_positions) const override {
    return std::make_unique<CudaCache>(config_, sequences, max_positions);
  }
  void set_expert_kernels(const std::shared_ptr<const ExpertKernelChooser>& chooser) override {
    pass_.kernels().set_chooser(chooser);
  }
  std::vector<ExpertKernel> expert_kernels() const override { return pass_.kernels().chosen(); }
  void forward(const TokenBatch& batch, const RoutingContext& routing, SequenceCache& cache,
               std::span<const int32_t> logit_rows, Matrix logits) override;
  void decode(const DecodeRequest& request, const RoutingContext& routing, SequenceCache& cache,
              std::span<int32_t> sampled) override;

 private:
  CudaCache& own(SequenceCache& cache) const;
  void prepare(int rows, int groups, int logit_rows, const RoutingContext& routing,
               const CudaPolicy& policy);
  CudaRouting routing_of(int layer, std::span<const RowGroup> groups) const;
  RouteLayer on_device(const CudaPolicy& policy, std::span<const RowGroup> groups);
  void finish(const CudaPolicy& policy, std::span<const RowGroup> groups, PlanObserver* observer);
  static void check_room(const DecodeRequest& request, const CudaCache& cache);
  cuda::Graph& step_graph(const DecodeRequest& request, const CudaPolicy& policy,
                          const CudaCache& cache, std::span<const RowGroup> groups,
                          const std::function<void()>& write_rows);
  void run_steps(const cuda::Graph& graph, int steps, int batch, std::span<int32_t> sampled);

  const ModelConfig config_;
  CudaWeights weights_;
  CudaFloats recorded_;  // router logits to draw from
  CudaPass pass_;
  std::vector<LayerVariants> variants_;
  std::vector<CudaInstances> instances_;
  CudaPrices prices_;
  CudaRouter router_;
  CudaPlans plans_;
  int row_capacity_ = 0;
  CudaRows rows_;
  cuda::DeviceArray<int32_t> round_{1}, step_{1}, log_;
  PositionCheck positions_;
  cuda::Stream stream_;
  std::map<GraphKey, cuda::Graph> graphs_;  // last: gone before what they work on
};

CudaCache& CudaTransformer::own(SequenceCache& cache) const {
  auto* mine = dynamic_cast<CudaCache*>(&cache);
  if (mine == nullptr) throw InvalidArgument("the key-value cache is not one of the GPU's");
  if (!mine->of(config_))
    throw InvalidArgument("the key-value cache was made for another model's configuration");
  return *mine;
}

// Buffers and tables for a pass; graphs that hold old ones are dropped.
void CudaTransformer::prepare(int rows, int groups, int logit_rows, const RoutingContext& routing,
                              const CudaPolicy& policy) {
  bool moved = pass_.reserve(rows, logit_rows);
  if (rows > row_capacity_) {
    rows_ = CudaRows(rows);
    row_capacity_ = rows;
    moved = true;
  }
  int instances = 1;
  for (int l = 0; l < config_.layers; ++l) {
    const size_t layer = static_cast<size_t>(l);
    const bool laid_out = !routing.layouts.empty() && config_.sparse[layer];
    moved |= instances_[layer].read(l, weights_.layers[layer].experts,
                                    laid_out ? &routing.layouts[layer] : nullptr, policy.utility);
    instances = std::max(instances, instances_[layer].count());
  }
  moved |= pass_.choose_kernels(rows, instances_);
  if (!plans_.fits(rows, groups, pass_.slots(), instances)) {
    const int most_rows = std::max(rows, plans_.rows());
    const int most_groups = std::max(groups, plans_.groups());
    plans_ = CudaPlans();  // before the larger one is made
    plans_ =
        CudaPlans(config_, most_rows, most_groups, pass_.slots(), kPrecisions * config_.experts);
    moved = true;
  }
  if (moved) graphs_.clear();
}

CudaRouting CudaTransformer::routing_of(int layer, std::span<const RowGroup> groups) const {
  return {{config_.top_k, config_.renormalize_top_k, layer},
          config_.experts,
          groups,
          plans_.layer(layer),
          &instances_[static_cast<size_t>(layer)]};
}

RouteLayer CudaTransformer::on_device(const CudaPolicy& policy, std::span<const RowGroup> groups) {
  bool moved = false;
  for (int l = 0; l < config_.layers; ++l)
    if (config_.sparse[static_cast<size_t>(l)])
      moved |= router_.reserve(policy, routing_of(l, groups));
  if (moved) graphs_.clear();
  return [this, &policy, groups](int layer) {
    router_.route_on_device(policy, prices_, routing_of(layer, groups), plans_, stream_.get());
    return config_.top_k;
  };
}

void CudaTransformer::finish(const CudaPolicy& policy, std::span<const RowGroup> groups,
                             PlanObserver* observer) {
  for (int l = 0; l < config_.layers; ++l)
    if (config_.sparse[static_cast<size_t>(l)])
      router_.finish(policy, routing_of(l, groups), observer, stream_.get());
}

void CudaTransformer::forward(const TokenBatch& batch, const RoutingContext& routing,
                              SequenceCache& cache, std::span<const int32_t> logit_rows,
                              Matrix logits) {
  CudaCache& store = own(cache);
  check_batch(config_, batch, routing, logit_rows, logits);
  positions_.check(batch, store.filled, store.max_positions());
  if (batch.tokens.empty()) return;
  const int rows = static_cast<int>(batch.tokens.size());
  if (rows > CudaPass::kMostRows)
    throw InvalidArgument(
        fmt::format("a pass of {} rows is more than the GPU's {}: use a smaller "
                    "batch or shorter prompts",
                    rows, CudaPass::kMostRows));
  positions_.begin(store.filled);
  const std::optional<CudaPolicy> policy = CudaPolicy::of(routing, config_);
  const CudaPolicy known = policy.value_or(CudaPolicy{});
  prepare(rows, static_cast<int>(batch.groups.size()), static_cast<int>(logit_rows.size()), routing,
          known);
  const cudaStream_t stream = stream_.get();
  rows_.write(batch, logit_rows, cuda::rows_of_unit(config_.heads, config_.kv_heads), stream);
  prices_.write(known, stream);
  const RouteLayer on_host = [&](int layer) {
    return router_.route_on_host(routing, routing_of(layer, batch.groups), pass_.slots(), stream);
  };
  pass_.run(rows_, store, plans_, instances_, policy ? on_device(known, batch.groups) : on_host,
            stream);
  if (!logit_rows.empty())
    cuda::check(
        cudaMemcpyAsync(logits.data, pass_.logits(),
                        logit_rows.size() * static_cast<size_t>(config_.vocab_size) * sizeof(float),
                        cudaMemcpyDeviceToHost, stream),
        "reading logits");
  cuda::check(cudaStreamSynchronize(stream), "a forward pass");
  if (policy) finish(known, batch.groups, routing.observer);
  positions_.finish(store.filled);
}

void CudaTransformer::check_room(const DecodeRequest& request, const CudaCache& cache) {
  for (const int32_t position : request.positions)
    if (position + int64_t{request.steps} > cache.max_positions())
      throw InvalidArgument(fmt::format("{} steps from position {} are more than the cache's {}",
                                        request.steps, position, cache.max_positions()));
}

// Captured where there is none yet. The rows' arrays hold the batch; `write_rows` makes them do so
// again.
cuda::Graph& CudaTransformer::step_graph(const DecodeRequest& request, const CudaPolicy& policy,
                                         const CudaCache& cache, std::span<const RowGroup> groups,
                                         const std::function<void()>& write_rows) {
  const int batch = static_cast<int>(request.tokens.size());
  const RouteLayer route = on_device(policy, groups);  // before the look: it may drop graphs
  const GraphKey key(batch, cache.number(), policy.mode, policy.utility.power,
                     request.sampling.temperature, request.sampling.seed, pass_.kernels().chosen());
  if (const auto known = graphs_.find(key); known != graphs_.end()) return known->second;
  if (graphs_.size() >= kMostGraphs) graphs_.clear();  // of caches that are long gone, most likely
  const cudaStream_t stream = stream_.get();
  const auto step = [&] {
    pass_.run(rows_, cache, plans_, instances_, route, stream);
    cuda::SampleArguments sample;
    sample.rows = batch;
    sample.vocabulary = static_cast<int>(config_.vocab_size);
    sample.logits = pass_.logits();
    sample.temperature = static_cast<float>(request.sampling.temperature);
    sample.seed = request.sampling.seed;
    sample.round = round_.data();
    sample.positions = rows_.positions.data();
    sample.tokens = rows_.tokens.data();
    cuda::check(cuda::sample(sample, stream), "sampling");
    cuda::check(cuda::advance_step(rows_.tokens.data(), batch, rows_.positions.data(), step_.data(),
                                   log_.data(), stream),
                "counting a step");
  };
  // Once outside of a capture, in which no kernel can be loaded.
  cuda::check(cudaMemsetAsync(step_.data(), 0, sizeof(int32_t), stream), "counting steps");
  step();
  write_rows();
  cuda::Graph graph;
  graph.capture(stream, step);
  return graphs_.emplace(key, std::move(graph)).first->second;
}

void CudaTransformer::run_steps(const cuda::Graph& graph, int steps, int batch,
                                std::span<int32_t> sampled) {
  const cudaStream_t stream = stream_.get();
  for (int done = 0; done < steps; done += kLoggedSteps) {
    const int some = std::min(kLoggedSteps, steps - done);
    cuda::check(cudaMemsetAsync(step_.data(), 0, sizeof(int32_t), stream), "counting steps");
    for (int i = 0; i < some; ++i) graph.launch(stream);
    cuda::check(
        cudaMemcpyAsync(sampled.data() + int64_t{done} * batch, log_.data(),
                        static_cast<size_t>(some) * static_cast<size_t>(batch) * sizeof(int32_t),
                        cudaMemcpyDeviceToHost, stream),
        "reading tokens");
    cuda::check(cudaStreamSynchronize(stream), "decode steps");
  }
}

void CudaTransformer::decode(const DecodeRequest& request, const RoutingContext& routing,
                             SequenceCache& cache, std::span<int32_t> sampled) {
  CudaCache& store = own(cache);
  check_routing(config_, routing);
  const std::optional<CudaPolicy> policy = CudaPolicy::of(routing, config_);
  if (!policy) return LanguageModel::decode(request, routing, cache, sampled);
  check_decode(request, sampled.size());
  check_room(request, store);
  const int batch = static_cast<int>(request.tokens.size());
  std::vector<int32_t> all(request.tokens.size());
  std::iota(all.begin(), all.end(), 0);
  const RowGroup group{0, batch};
  const TokenBatch rows{request.tokens, all, request.positions, {&group, 1}};
  check_batch(config_, rows, routing, {}, {});
  positions_.check(rows, store.filled, store.max_positions());
  prepare(batch, 1, batch, routing, *policy);
  if (const size_t log = static_cast<size_t>(batch) * kLoggedSteps; log_.size() < log) {
    log_ = cuda::DeviceArray<int32_t>(log);
    graphs_.clear();
  }
  const cudaStream_t stream = stream_.get();
  const auto write_rows = [&] {
    rows_.write(rows, all, cuda::rows_of_unit(config_.heads, config_.kv_heads), stream);
  };
  write_rows();
  prices_.write(*policy, stream);
  cuda::check(cudaMemcpyAsync(round_.data(), &request.sampling.round, sizeof(int32_t),
                              cudaMemcpyHostToDevice, stream),
              "writing a round's number");
  run_steps(step_graph(request, *policy, store, {&group, 1}, write_rows), request.steps, batch,
            sampled);
  for (size_t s = 0; s < request.positions.size(); ++s)
    store.filled[s] = request.positions[s] + int64_t{request.steps};
  finish(*policy, {&group, 1}, routing.observer);
}

}  // namespace

void check_cuda_device() {
  const CudaDeviceList list = cuda_device_list();
  if (list.devices.empty())
    throw InvalidArgument("there is no GPU to run on: " + list.problem + "; or use --device cpu");
}

void add_fp8(const ModelConfig& config, std::vector<LayerVariants>& variants) {
  if (!has_warpgroup_products())
    throw InvalidArgument(
        "fp8 needs a GPU of compute capability 9.0 (H100, H200): leave it out of --variants");
  for (LayerVariants& layer : variants) {
    layer.fp8 = layer.stored;
    layer.fp8_error_frac = kFp8ErrorFrac;
    layer.fp8_bytes =
        static_cast<double>(fp8_expert_bytes(config.hidden_size, config.expert_inter_size));
  }
}

std::unique_ptr<LanguageModel> make_cuda_model(const ModelConfig& config, CudaWeights weights,
                                               std::vector<LayerVariants> variants,
                                               const LogitTable& routing) {
  return std::make_unique<CudaTransformer>(config, std::move(weights), std::move(variants),
                                           routing);
}

std::unique_ptr<LanguageModel> make_cuda_transformer(const Checkpoint& checkpoint,
                                                     const CudaModelOptions& options) {
  check_cuda_model(checkpoint.config());  // for machines without a GPU as well
  check_cuda_device();
  const TransformerWeights bound = bind_weights(checkpoint, make_moe_workspace());
  std::vector<LayerVariants> variants;
  for (const LayerWeights& layer : bound.layers) variants.push_back(layer.variants);
  if (options.fp8) add_fp8(checkpoint.config(), variants);
  return make_cuda_model(checkpoint.config(),
                         upload_weights(checkpoint.config(), bound, options.fp8),
                         std::move(variants));
}

}  // namespace thermoe
