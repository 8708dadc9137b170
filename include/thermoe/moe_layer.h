// MoeLayer: gate, routing, experts, weighted combine.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string_view>
#include <vector>

#include "thermoe/adaptive_router.h"
#include "thermoe/quantized_expert.h"
#include "thermoe/simple_expert.h"
#include "thermoe/thread_pool.h"

namespace thermoe {

struct MoeSettings {
  int top_k = 0;
  bool renormalize = true;  // norm_topk_prob
  int layer = 0;            // this layer's number, passed to the policy
};

// What an expert runs in: as the checkpoint stores it, in nested planes, or (on a GPU alone) with
// fp8 arithmetic.
enum class Precision : uint8_t { kStored, kInt8, kInt4, kFp8 };
constexpr int kPrecisions = 4;

// Of a layout's variant: "int8" and "int4" are nested planes, "fp8" is e4m3, "bf16", "f16" and
// "f32" as stored.
// Throws InvalidArgument for any other name.
Precision precision_of(std::string_view variant_name);

// One expert as it is stored, quantised, or both, of one shape. Views, as the experts themselves.
struct ExpertWeights {
  std::optional<SimpleExpert> stored;
  std::optional<QuantizedExpert> quantized;

  bool has(Precision precision) const {
    if (precision == Precision::kFp8) return false;
    return precision == Precision::kStored ? stored.has_value() : quantized.has_value();
  }
  // What it runs in where nobody says: as stored, else int8.
  Precision finest() const { return stored ? Precision::kStored : Precision::kInt8; }
  int64_t hidden_size() const { return stored ? stored->hidden_size() : quantized->hidden_size(); }
  int64_t inter_size() const { return stored ? stored->inter_size() : quantized->inter_size(); }
};

class MoeLayer;

// What one forward pass of a MoE layer worked with. Views of the layer's buffers, during the call.
struct LayerPass {
  const MoeLayer& layer;
  ConstMatrix x;            // [N, hidden] the layer's input
  const RoutingPlan& plan;  // of all rows, its groups' joined; no report
  ConstMatrix outputs;      // [pairs, hidden] row p: the output of the expert of pair packed[p]
};

class PlanObserver {
 public:
  virtual ~PlanObserver() = default;
  // Called once per routed group with the plan just made, before the experts run.
  virtual void on_plan(int layer, const RoutingPlan& plan) = 0;
  // Called once per forward pass of a layer, after its experts ran, from the thread that runs the
  // pass and outside of any region of its pool.
  virtual void on_layer(const LayerPass&) {}
};

// Tokens that route together: rows [first, first + count) of a batch are one group.
struct RowGroup {
  int64_t first = 0;
  int64_t count = 0;
};

// Buffers of a forward pass. Layers that run one after the other may share one.
struct MoeWorkspace;
std::shared_ptr<MoeWorkspace> make_moe_workspace();

// Not thread-safe (writes its workspace); its weights are views of the checkpoint, which must
// outlive it.
class MoeLayer {
 public:
  // gate: [E, hidden]; E experts of one shape, those that are stored of one dtype. Without a
  // workspace the layer makes its own. Throws InvalidArgument where shapes disagree, there is no
  // expert, one has no weights, or top_k is outside [1, E].
  MoeLayer(const WeightView& gate, std::vector<ExpertWeights> experts, const MoeSettings& settings,
           std::shared_ptr<MoeWorkspace> workspace = nullptr);
  // All experts as stored.
  MoeLayer(const WeightView& gate, const std::vector<SimpleExpert>& experts,
           const MoeSettings& settings, std::shared_ptr<MoeWorkspace> workspace = nullptr);

  int experts() const { return static_cast<int>(experts_.size()); }
  const ExpertWeights& expert(int id) const { return experts_[static_cast<size_t>(id)]; }
  int64_t hidden_size() const { return gate_.cols; }
  const WeightView& gate() const { return gate_; }
  const MoeSettings& settings() const { return settings_; }

  // out = moe(x), both [N, hidden] f32, not overlapping. `groups` partition the rows in order; each
  // is routed by `policy` as one batch at `prices`, on softmax probabilities of the router's
  // logits; then every expert runs once over all rows that chose it. A row's output is the sum of
  // its experts' outputs in the order of the plan's slots (falling score), whatever the thread
  // count; zero where a plan leaves all of its slots unused. A plan may have more slots than top_k.
  //
  // `layout` says in which precisions the experts may run; null: each in its finest. Where it has
  // one instance of each expert there is nothing to choose: the policy gets no layout, and so any
  // policy works. Else the request carries it and the plan's instances say which. Either way an
  // instance of the plan is one of the layout, and prices are of its instances. Devices and
  // capacities are the policy's business alone.
  //
  // Throws InvalidArgument where the views' shapes don't fit or groups are no partition, for router
  // logits that are not finite (naming layer, row and expert), for a plan that isn't one, and for a
  // layout of other experts or with a precision that an expert isn't held in (naming it).
  void forward(ConstMatrix x, std::span<const RowGroup> groups, RoutingPolicy& policy,
               const ExpertPrices* prices, Matrix out, ThreadPool& pool,
               PlanObserver* observer = nullptr, const ExpertLayout* layout = nullptr);

 private:
  void check_arguments(ConstMatrix x, std::span<const RowGroup> groups, Matrix out) const;
  void read_layout(const ExpertLayout* layout);
  void score(ConstMatrix x, ThreadPool& pool);
  void route(std::span<const RowGroup> groups, RoutingPolicy& policy, const ExpertPrices* prices,
             const ExpertLayout* layout, PlanObserver* observer);
  void run_experts(ConstMatrix x, ThreadPool& pool);
  void combine(Matrix out, ThreadPool& pool);

  WeightView gate_;
  std::vector<ExpertWeights> experts_;
  std::optional<DType> stored_dtype_;  // of the experts that are stored; none: no one is
  MoeSettings settings_;
  std::shared_ptr<MoeWorkspace> workspace_;
};

}  // namespace thermoe
