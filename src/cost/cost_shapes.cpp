#include <fmt/format.h>
#include <fmt/ranges.h>

#include "thermoe/error.h"
#include "thermoe/kernel_cost_model.h"

namespace thermoe {
namespace {

// Attention of a published model, for counting its dense parameters.
struct Attention {
  int64_t heads, kv_heads, head_dim;
  bool qk_norm_per_head;
};

// Projections, gate and norms of one layer; `shared_inter`: a shared expert that every token takes.
int64_t dense_params(int64_t hidden, int64_t experts, const Attention& a,
                     int64_t shared_inter = 0) {
  const int64_t projections = 2 * hidden * a.head_dim * (a.heads + a.kv_heads);
  const int64_t norms = 2 * hidden + (a.qk_norm_per_head ? 2 * a.head_dim : 0);
  return projections + hidden * experts + norms + 3 * hidden * shared_inter;
}

// Sizes from the models' published config.json.
std::vector<CostShape> make_shapes() {
  return {
      {"qwen3-30b-a3b", 2048, 768, 128, 8, 48, dense_params(2048, 128, {32, 4, 128, true}),
       int64_t{151936} * 2048},
      {"mixtral-8x7b", 4096, 14336, 8, 2, 32, dense_params(4096, 8, {32, 8, 128, false}),
       int64_t{32000} * 4096},
      {"llama-4-scout", 5120, 8192, 16, 1, 48, dense_params(5120, 16, {40, 8, 128, false}, 8192),
       int64_t{202048} * 5120},
      {"qwen3-coder-480b-a35b", 6144, 2560, 160, 8, 62, dense_params(6144, 160, {96, 8, 128, true}),
       int64_t{151936} * 6144},
  };
}

}  // namespace

const std::vector<CostShape>& known_cost_shapes() {
  static const std::vector<CostShape> shapes = make_shapes();
  return shapes;
}

const CostShape& cost_shape(const std::string& name) {
  std::vector<std::string> names;
  for (const CostShape& shape : known_cost_shapes()) {
    if (shape.name == name) return shape;
    names.push_back(shape.name);
  }
  throw InvalidArgument(fmt::format("cost shape \"{}\" is not known; choose one of {}", name,
                                    fmt::join(names, ", ")));
}

const char* name_of(BoundBy bound) {
  switch (bound) {
    case BoundBy::kMemory:
      return "memory";
    case BoundBy::kCompute:
      return "compute";
    case BoundBy::kOverhead:
      return "overhead";
  }
  return "unknown";
}

const char* name_of(CostSource source) {
  switch (source) {
    case CostSource::kMeasured:
      return "measured";
    case CostSource::kInterpolated:
      return "interpolated";
    case CostSource::kTransferred:
      return "transferred";
    case CostSource::kRoofline:
      return "roofline";
  }
  return "unknown";
}

}  // namespace thermoe
