#include <memory>

#include "c_api/handles.h"
#include "c_api/records.h"

struct thermoe_cost_model {  // NOLINT(readability-identifier-naming): C
  thermoe::KernelCostModel model;
};

namespace thermoe::c_api {
namespace {

// Beyond what a published model has; sizes multiply to bytes and FLOPs.
constexpr int64_t kLargestSize = 1 << 20;

CostShape shape_of(const thermoe_cost_model_options& options) {
  if (options.shape != nullptr) return cost_shape(options.shape);
  check_count(options.hidden_size, kLargestSize, "cost model options: hidden_size");
  check_count(options.expert_inter_size, kLargestSize, "cost model options: expert_inter_size");
  check_count(options.experts, kMostExperts, "cost model options: experts");
  check_count(options.top_k, options.experts, "cost model options: top_k");
  check_count(options.layers, kMostExperts, "cost model options: layers");
  CostShape shape;
  shape.name = "the shape given";
  shape.hidden_size = options.hidden_size;
  shape.expert_inter_size = options.expert_inter_size;
  shape.experts = options.experts;
  shape.top_k = options.top_k;
  shape.layers = options.layers;
  return shape;
}

const KernelCostModel& model_of(const thermoe_cost_model* handle) {
  require(handle, "cost model");
  return handle->model;
}

}  // namespace
}  // namespace thermoe::c_api

namespace c = thermoe::c_api;

thermoe_status thermoe_cost_model_open(const thermoe_cost_model_options* options,
                                       thermoe_cost_model** out) {
  return c::guarded([&] {
    c::require(out, "out");
    *out = nullptr;
    const thermoe_cost_model_options given = c::read_struct(
        options, THERMOE_THROUGH(thermoe_cost_model_options, shape), "cost model options");
    c::require(given.profile, "cost model options: profile");
    thermoe::KernelChoice choice;
    if (given.dtype != nullptr) choice.dtype = given.dtype;
    if (given.kernel != nullptr) choice.kernel = given.kernel;
    *out = std::make_unique<thermoe_cost_model>(
               thermoe_cost_model{{given.profile, c::shape_of(given), choice}})
               .release();
  });
}

void thermoe_cost_model_close(thermoe_cost_model* model) { delete model; }

thermoe_status thermoe_cost_model_layer(const thermoe_cost_model* model, double tokens,
                                        double distinct_experts, double assignments,
                                        const thermoe_hardware_state* state,
                                        thermoe_cost_estimate* out) {
  return c::guarded([&] {
    const thermoe::MoeWork work{tokens, distinct_experts, assignments};
    thermoe::HardwareState at;
    if (state != nullptr) at = c::read_state(state);
    c::write_estimate(c::model_of(model).moe_layer(work, state != nullptr ? &at : nullptr), out);
  });
}

thermoe_status thermoe_cost_model_surrogate(const thermoe_cost_model* model, double tokens,
                                            const thermoe_hardware_state* state,
                                            thermoe_cost_surrogate* out) {
  return c::guarded([&] {
    thermoe::HardwareState at;
    if (state != nullptr) at = c::read_state(state);
    c::write_surrogate(c::model_of(model).surrogate(tokens, state != nullptr ? &at : nullptr), out);
  });
}
