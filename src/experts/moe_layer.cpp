#include "thermoe/moe_layer.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "experts/group_routing.h"
#include "experts/moe_workspace.h"
#include "experts/row_tasks.h"
#include "kernels/cpu/elementwise.h"
#include "kernels/cpu/linear.h"
#include "thermoe/error.h"

namespace thermoe {
namespace {

// The packed order of rows depends only on whether the weights are bf16.
bool same_order(DType a, DType b) { return (a == DType::kBf16) == (b == DType::kBf16); }

std::vector<ExpertWeights> as_weights(const std::vector<SimpleExpert>& experts) {
  std::vector<ExpertWeights> weights;
  weights.reserve(experts.size());
  for (const SimpleExpert& expert : experts) weights.push_back({expert, std::nullopt});
  return weights;
}

bool fits(const ExpertWeights& expert, int64_t hidden, int64_t inter, std::optional<DType> dtype) {
  const auto& [stored, quantized] = expert;
  if (stored && (stored->hidden_size() != hidden || stored->inter_size() != inter ||
                 stored->dtype() != dtype))
    return false;
  return !quantized || (quantized->hidden_size() == hidden && quantized->inter_size() == inter);
}

}  // namespace

std::shared_ptr<MoeWorkspace> make_moe_workspace() { return std::make_shared<MoeWorkspace>(); }

void check_partition(std::span<const RowGroup> groups, int64_t rows) {
  int64_t next = 0;
  for (const RowGroup& group : groups) {
    if (group.first != next || group.count < 1)
      throw InvalidArgument(fmt::format(
          "groups must partition the rows in order: a group of {} rows begins at {}, not at {}",
          group.count, group.first, next));
    next += group.count;
  }
  if (next != rows)
    throw InvalidArgument(
        fmt::format("groups must partition the rows: they hold {} of {}", next, rows));
}

Precision precision_of(std::string_view variant_name) {
  if (variant_name == "int8") return Precision::kInt8;
  if (variant_name == "int4") return Precision::kInt4;
  if (variant_name == "fp8") return Precision::kFp8;
  if (variant_name == "bf16" || variant_name == "f16" || variant_name == "f32")
    return Precision::kStored;
  throw InvalidArgument(
      fmt::format("experts can't run in '{}': known are bf16 (or f16, f32: as stored), int8, int4, "
                  "fp8",
                  variant_name));
}

MoeLayer::MoeLayer(const WeightView& gate, const std::vector<SimpleExpert>& experts,
                   const MoeSettings& settings, std::shared_ptr<MoeWorkspace> workspace)
    : MoeLayer(gate, as_weights(experts), settings, std::move(workspace)) {}

MoeLayer::MoeLayer(const WeightView& gate, std::vector<ExpertWeights> experts,
                   const MoeSettings& settings, std::shared_ptr<MoeWorkspace> workspace)
    : gate_(gate),
      experts_(std::move(experts)),
      settings_(settings),
      workspace_(workspace != nullptr ? std::move(workspace) : make_moe_workspace()) {
  if (experts_.empty() || gate.empty() || gate.rows != static_cast<int64_t>(experts_.size()))
    throw InvalidArgument(fmt::format("layer {}: a gate of {} rows needs as many experts, not {}",
                                      settings.layer, gate.rows, experts_.size()));
  if (settings.top_k < 1 || settings.top_k > this->experts())
    throw InvalidArgument(fmt::format("layer {}: top_k {} must be in [1, {}]", settings.layer,
                                      settings.top_k, experts_.size()));
  for (size_t e = 0; e < experts_.size(); ++e) {
    const ExpertWeights& expert = experts_[e];
    if (!expert.stored && !expert.quantized)
      throw InvalidArgument(
          fmt::format("layer {}: expert {} has no weights at all", settings.layer, e));
    if (expert.stored && !stored_dtype_) stored_dtype_ = expert.stored->dtype();
    if (!fits(expert, gate.cols, experts_.front().inter_size(), stored_dtype_))
      throw InvalidArgument(fmt::format(
          "layer {}: all experts must have the gate's hidden size {} and one shape and dtype",
          settings.layer, gate.cols));
  }
}

void MoeLayer::check_arguments(ConstMatrix x, std::span<const RowGroup> groups, Matrix out) const {
  if (x.cols != gate_.cols || out.cols != gate_.cols || out.rows != x.rows)
    throw InvalidArgument(
        fmt::format("layer {}: can't turn [{}, {}] into [{}, {}] at hidden size {}",
                    settings_.layer, x.rows, x.cols, out.rows, out.cols, gate_.cols));
  check_partition(groups, x.rows);
}

// Fills targets [I].
void MoeLayer::read_layout(const ExpertLayout* layout) {
  std::vector<ExpertTarget>& targets = workspace_->targets;
  targets.clear();
  if (layout == nullptr) {
    for (int e = 0; e < experts(); ++e) targets.push_back({e, expert(e).finest()});
    return;
  }
  if (layout->experts != experts())
    throw InvalidArgument(fmt::format("layer {}: the layout is of {} experts, the layer has {}",
                                      settings_.layer, layout->experts, experts()));
  for (const ExpertInstance& instance : layout->instances) {
    const std::string& name = layout->variants[static_cast<size_t>(instance.variant)].name;
    targets.push_back({instance.expert, precision_of(name)});
    if (!expert(instance.expert).has(targets.back().precision))
      throw InvalidArgument(fmt::format(
          "layer {}: expert {} is not held in {}: {}", settings_.layer, instance.expert, name,
          targets.back().precision == Precision::kFp8 ? "fp8 runs on a GPU alone"
          : targets.back().precision == Precision::kStored
              ? "use the checkpoint that it was quantised from, or leave the variant out"
              : "make a quantised checkpoint with thermoe quantize, or leave the variant out"));
  }
}

// Fills scores [N, E] with softmax(gate x), and the packed rows.
void MoeLayer::score(ConstMatrix x, ThreadPool& pool) {
  MoeWorkspace& ws = *workspace_;
  const int64_t rows = x.rows, padded = cpu::padded_cols(x.cols), count = experts();
  // Quantised experts take the rows as they are: then only the gate's are packed.
  const DType dtype = stored_dtype_.value_or(gate_.dtype);
  const bool shared = same_order(dtype, gate_.dtype);
  float* packed = at_least(ws.packed, static_cast<size_t>(rows * padded));
  float* for_gate =
      shared ? packed : at_least(ws.packed_for_gate, static_cast<size_t>(rows * padded));
  float* scores = at_least(ws.scores, static_cast<size_t>(rows * count));
  for_rows(pool, rows, count * x.cols, [&](int64_t first, int64_t some, int) {
    const ConstMatrix part = x.rows_from(first, some);
    cpu::pack_rows(dtype, part, Matrix(packed + first * padded, some, padded));
    if (!shared) cpu::pack_rows(gate_.dtype, part, Matrix(for_gate + first * padded, some, padded));
    cpu::linear({for_gate + first * padded, padded, some}, gate_, 0, count, scores + first * count,
                count);
    for (int64_t r = first; r < first + some; ++r) {
      float* row = scores + r * count;
      // A row that is not finite stays as it is, for the check below.
      if (std::all_of(row, row + count, [](float v) { return std::isfinite(v); }))
        cpu::softmax(row, count);
    }
  });
  for (int64_t i = 0; i < rows * count; ++i)
    if (!std::isfinite(scores[i]))
      throw InvalidArgument(fmt::format(
          "layer {}: router logit of row {}, expert {} is {}: the checkpoint's weights or "
          "activations are damaged; download the checkpoint again",
          settings_.layer, i / count, i % count, scores[i]));
}

void MoeLayer::route(std::span<const RowGroup> groups, RoutingPolicy& policy,
                     const ExpertPrices* prices, const ExpertLayout* layout,
                     PlanObserver* observer) {
  MoeWorkspace& ws = *workspace_;
  const int64_t rows = groups.empty() ? 0 : groups.back().first + groups.back().count;
  route_groups(ConstMatrix(ws.scores.data(), rows, experts()), groups, settings_,
               {policy, prices, layout, observer}, ws.group_plan, ws.plan);
  pack(ws.plan, static_cast<int>(ws.targets.size()));
}

void MoeLayer::run_experts(ConstMatrix x, ThreadPool& pool) {
  MoeWorkspace& ws = *workspace_;
  const size_t pairs = ws.plan.packed.size();
  ws.tokens.resize(pairs);
  ws.places.resize(ws.plan.ids.size());
  for (size_t p = 0; p < pairs; ++p) {
    ws.tokens[p] = ws.plan.packed[p] / ws.plan.k;
    ws.places[static_cast<size_t>(ws.plan.packed[p])] = static_cast<int32_t>(p);
  }
  make_tiles(ws.plan, ws.targets, ws.tiles);
  if (ws.worker_scratch.size() < static_cast<size_t>(pool.size()))
    ws.worker_scratch.resize(static_cast<size_t>(pool.size()));
  const int64_t inner = cpu::padded_cols(experts_.front().inter_size());
  const int64_t count = static_cast<int64_t>(pairs);
  ExpertBuffers buffers;
  buffers.input = {ws.packed.data(), cpu::padded_cols(gate_.cols), ws.plan.tokens};
  buffers.rows = x;
  buffers.tokens = ws.tokens.data();
  buffers.inner = Matrix(at_least(ws.inner, pairs * static_cast<size_t>(inner)), count, inner);
  buffers.outputs =
      Matrix(at_least(ws.outputs, pairs * static_cast<size_t>(gate_.cols)), count, gate_.cols);
  buffers.worker_scratch = ws.worker_scratch;
  buffers.quantized = &ws.quantized;
  run_tiles(experts_, ws.tiles, buffers, pool);
}

void MoeLayer::combine(Matrix out, ThreadPool& pool) {
  const MoeWorkspace& ws = *workspace_;
  const int k = ws.plan.k;
  for_rows(pool, out.rows, 4 * k * gate_.cols, [&](int64_t begin, int64_t count, int) {
    const float* rows[64];
    for (int64_t t = begin; t < begin + count; ++t) {
      const float* weights = ws.plan.weights.data() + t * k;
      const int32_t* places = ws.places.data() + t * k;
      const int32_t* ids = ws.plan.ids.data() + t * k;
      const int used = static_cast<int>(std::find(ids, ids + k, -1) - ids);
      if (used == 0) std::fill_n(out.row(t), gate_.cols, 0.0f);
      for (int first = 0; first < used; first += 64) {
        const int some = std::min(64, used - first);
        for (int slot = 0; slot < some; ++slot)
          rows[slot] = ws.outputs.data() + places[first + slot] * gate_.cols;
        cpu::weighted_sum({rows, static_cast<size_t>(some)}, weights + first, gate_.cols,
                          out.row(t), first > 0);
      }
    }
  });
}

void MoeLayer::forward(ConstMatrix x, std::span<const RowGroup> groups, RoutingPolicy& policy,
                       const ExpertPrices* prices, Matrix out, ThreadPool& pool,
                       PlanObserver* observer, const ExpertLayout* layout) {
  check_arguments(x, groups, out);
  read_layout(layout);
  if (x.rows == 0) return;
  score(x, pool);
  route(groups, policy, prices, layout, observer);
  run_experts(x, pool);
  if (observer != nullptr) {
    const MoeWorkspace& ws = *workspace_;
    const int64_t pairs = static_cast<int64_t>(ws.plan.packed.size());
    observer->on_layer({*this, x, ws.plan, ConstMatrix(ws.outputs.data(), pairs, gate_.cols)});
  }
  combine(out, pool);
}

}  // namespace thermoe
