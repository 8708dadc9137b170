#include <algorithm>
#include <cmath>
#include <memory>
#include <vector>

#include "c_api/boundary.h"
#include "c_api/handles.h"
#include "experts/expert_quantizer.h"
#include "experts/expert_tasks.h"
#include "experts/moe_workspace.h"
#include "experts/row_tasks.h"
#include "kernels/cpu/elementwise.h"

struct thermoe_experts {  // NOLINT(readability-identifier-naming): C
  explicit thermoe_experts(int threads) : pool(threads) {}

  int64_t hidden = 0;
  std::vector<thermoe::QuantizedWeights> weights;  // [E] what `views` look at
  std::vector<thermoe::QuantizedExpert> views;     // [E]
  std::vector<thermoe::ExpertTarget> targets;      // [2 E] instance 2 e: int8, 2 e + 1: int4
  std::vector<thermoe::QuantizedTile> tiles;       // of a batch
  thermoe::ThreadPool pool;
  thermoe::MoeWorkspace workspace;
};

namespace thermoe::c_api {
namespace {

constexpr int64_t kLargestExpert = 1 << 17;  // of hidden and intermediate
constexpr int64_t kMostThreads = 1024;

void quantize(const thermoe_experts_options& options, thermoe_experts& experts) {
  const int64_t hidden = options.hidden_size, inter = options.inter_size;
  const auto view = [&](const float* all, size_t e, int64_t rows, int64_t cols) {
    return WeightView{all + e * static_cast<size_t>(rows * cols), DType::kF32, rows, cols};
  };
  experts.weights.resize(static_cast<size_t>(options.experts));
  experts.pool.run(options.experts, [&](int task, int) {
    const size_t e = static_cast<size_t>(task);
    const SimpleExpert stored(view(options.gate, e, inter, hidden),
                              view(options.up, e, inter, hidden),
                              view(options.down, e, hidden, inter));
    try {
      experts.weights[e] = quantize_expert(stored, {}, {});
    } catch (const Error& error) {
      throw Error(error.kind(), fmt::format("expert {}: {}", e, error.what()));
    }
  });
}

std::unique_ptr<thermoe_experts> create_experts(const thermoe_experts_options* given) {
  const thermoe_experts_options options =
      read_struct(given, THERMOE_THROUGH(thermoe_experts_options, experts), "experts options");
  require(options.gate, "experts options: gate");
  require(options.up, "experts options: up");
  require(options.down, "experts options: down");
  check_count(options.hidden_size, kLargestExpert, "experts options: hidden_size");
  check_count(options.inter_size, kLargestExpert, "experts options: inter_size");
  check_count(options.experts, kMostExperts, "experts options: experts");
  if (options.threads != 0) check_count(options.threads, kMostThreads, "experts options: threads");
  auto experts = std::make_unique<thermoe_experts>(options.threads);
  experts->hidden = options.hidden_size;
  quantize(options, *experts);
  for (const QuantizedWeights& weights : experts->weights) {
    experts->targets.push_back({static_cast<int>(experts->views.size()), Precision::kInt8});
    experts->targets.push_back({static_cast<int>(experts->views.size()), Precision::kInt4});
    experts->views.push_back(weights.expert());
  }
  return experts;
}

int64_t row_stride(int64_t given, int64_t cols, const char* name) {
  const int64_t stride = given != 0 ? given : cols;
  if (stride < cols || stride > int64_t{1} << 40)
    throw InvalidArgument(
        fmt::format("experts batch: {} is {}: rows of {} values must be at least as far apart",
                    name, given, cols));
  return stride;
}

thermoe_experts_batch read_batch(const thermoe_experts& experts,
                                 const thermoe_experts_batch* given) {
  thermoe_experts_batch batch =
      read_struct(given, THERMOE_THROUGH(thermoe_experts_batch, slots), "experts batch");
  require(batch.x, "experts batch: x");
  require(batch.ids, "experts batch: ids");
  require(batch.weights, "experts batch: weights");
  require(batch.out, "experts batch: out");
  check_count(batch.tokens, kMostTokens, "experts batch: tokens");
  check_count(batch.slots, kMostExperts, "experts batch: slots");
  check_count(batch.tokens * batch.slots, kMostPairs, "experts batch: tokens times slots");
  batch.x_stride = row_stride(batch.x_stride, experts.hidden, "x_stride");
  batch.out_stride = row_stride(batch.out_stride, experts.hidden, "out_stride");
  return batch;
}

void check_inputs(const thermoe_experts& experts, const thermoe_experts_batch& batch) {
  for (int64_t t = 0; t < batch.tokens; ++t) {
    const float* row = batch.x + t * batch.x_stride;
    for (int64_t c = 0; c < experts.hidden; ++c)
      if (!std::isfinite(row[c]))
        throw InvalidArgument(fmt::format(
            "x of token {}, column {} is {}: inputs of experts must be finite", t, c, row[c]));
  }
}

// The pairs by expert and precision, as a plan.
void sort_pairs(const thermoe_experts& experts, const thermoe_experts_batch& batch,
                RoutingPlan& plan) {
  const auto count = static_cast<int64_t>(experts.views.size());
  const size_t pairs = static_cast<size_t>(batch.tokens * batch.slots);
  plan.tokens = static_cast<int>(batch.tokens);
  plan.experts = static_cast<int>(count);
  plan.k = batch.slots;
  plan.ids.assign(batch.ids, batch.ids + pairs);
  plan.instances.resize(pairs);
  for (size_t p = 0; p < pairs; ++p) {
    const int32_t id = batch.ids[p];
    if (id < -1 || id >= count)
      throw InvalidArgument(fmt::format("token {}, slot {}: expert {}, of {}; -1 is for none",
                                        p / static_cast<size_t>(batch.slots),
                                        p % static_cast<size_t>(batch.slots), id, count));
    const int32_t fine = batch.int4 != nullptr && batch.int4[p] != 0 ? 1 : 0;
    plan.instances[p] = id < 0 ? -1 : 2 * id + fine;
  }
  pack(plan, static_cast<int>(2 * count));
}

void run_pairs(thermoe_experts& experts, const thermoe_experts_batch& batch) {
  MoeWorkspace& ws = experts.workspace;
  const size_t pairs = ws.plan.packed.size();
  ws.tokens.resize(pairs);
  ws.places.assign(ws.plan.ids.size(), -1);
  for (size_t p = 0; p < pairs; ++p) {
    ws.tokens[p] = ws.plan.packed[p] / ws.plan.k;
    ws.places[static_cast<size_t>(ws.plan.packed[p])] = static_cast<int32_t>(p);
  }
  make_tiles(ws.plan, experts.targets, ws.tiles);
  experts.tiles.clear();
  for (const ExpertTile& tile : ws.tiles)
    experts.tiles.push_back(
        {&experts.views[static_cast<size_t>(tile.target.expert)],
         tile.target.precision == Precision::kInt4 ? Planes::kHi : Planes::kBoth, tile.first,
         tile.count});
  const Matrix outputs(at_least(ws.outputs, pairs * static_cast<size_t>(experts.hidden)),
                       static_cast<int64_t>(pairs), experts.hidden);
  run_quantized_tiles(experts.tiles,
                      ConstMatrix(batch.x, batch.tokens, experts.hidden, batch.x_stride),
                      ws.tokens.data(), outputs, ws.quantized, experts.pool);
}

void combine(thermoe_experts& experts, const thermoe_experts_batch& batch) {
  const MoeWorkspace& ws = experts.workspace;
  const int64_t hidden = experts.hidden, k = batch.slots;
  for_rows(experts.pool, batch.tokens, 4 * k * hidden, [&](int64_t begin, int64_t count, int) {
    for (int64_t t = begin; t < begin + count; ++t) {
      float* out = batch.out + t * batch.out_stride;
      bool begun = false;
      for (int64_t pair = t * k; pair < (t + 1) * k; ++pair) {
        const int32_t place = ws.places[static_cast<size_t>(pair)];
        if (place < 0) continue;
        const float* row = ws.outputs.data() + place * hidden;
        cpu::weighted_sum({&row, 1}, batch.weights + pair, hidden, out, begun);
        begun = true;
      }
      if (!begun) std::fill_n(out, hidden, 0.0f);
    }
  });
}

}  // namespace
}  // namespace thermoe::c_api

namespace c = thermoe::c_api;

thermoe_status thermoe_experts_create(const thermoe_experts_options* options,
                                      thermoe_experts** out) {
  return c::guarded([&] {
    c::require(out, "out");
    *out = nullptr;
    *out = c::create_experts(options).release();
  });
}

void thermoe_experts_close(thermoe_experts* experts) { delete experts; }

thermoe_status thermoe_experts_forward(thermoe_experts* experts,
                                       const thermoe_experts_batch* batch) {
  return c::guarded([&] {
    c::require(experts, "experts");
    const thermoe_experts_batch in = c::read_batch(*experts, batch);
    c::check_inputs(*experts, in);
    c::sort_pairs(*experts, in, experts->workspace.plan);
    c::run_pairs(*experts, in);
    c::combine(*experts, in);
  });
}

thermoe_status thermoe_experts_bytes(const thermoe_experts* experts, size_t* int8, size_t* int4) {
  return c::guarded([&] {
    c::require(experts, "experts");
    const thermoe::QuantizedExpert& any = experts->views.front();
    if (int8 != nullptr) *int8 = any.weight_bytes(thermoe::Planes::kBoth);
    if (int4 != nullptr) *int4 = any.weight_bytes(thermoe::Planes::kHi);
  });
}

thermoe_status thermoe_experts_errors(const thermoe_experts* experts, float* int8, float* int4) {
  return c::guarded([&] {
    c::require(experts, "experts");
    for (size_t e = 0; e < experts->weights.size(); ++e) {
      if (int8 != nullptr) int8[e] = experts->weights[e].int8_error_frac;
      if (int4 != nullptr) int4[e] = experts->weights[e].int4_error_frac;
    }
  });
}
