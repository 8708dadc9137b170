#include <fmt/format.h>
#include <fmt/ranges.h>

#include "thermoe/error.h"
#include "thermoe/kernel_cost_model.h"

namespace thermoe {
namespace {

// Sizes from the models' published config.json.
std::vector<CostShape> make_shapes() {
  return {
      {"qwen3-30b-a3b", 2048, 768, 128, 8, 48, 32, 4, 128, true, 0, 151936},
      {"mixtral-8x7b", 4096, 14336, 8, 2, 32, 32, 8, 128, false, 0, 32000},
      {"llama-4-scout", 5120, 8192, 16, 1, 48, 40, 8, 128, false, 8192, 202048},
      {"qwen3-coder-480b-a35b", 6144, 2560, 160, 8, 62, 96, 8, 128, true, 0, 151936},
      {"olmoe-1b-7b", 2048, 1024, 64, 8, 16, 16, 16, 128, false, 0, 50304},
      {"qwen3-235b-a22b", 4096, 1536, 128, 8, 94, 64, 4, 128, true, 0, 151936},
      {"gpt-oss-120b", 2880, 2880, 128, 4, 36, 64, 8, 64, false, 0, 201088},
  };
}

}  // namespace

const std::vector<CostShape>& known_cost_shapes() {
  static const std::vector<CostShape> shapes = make_shapes();
  return shapes;
}

int64_t CostShape::dense_params_per_layer() const {
  const int64_t projections = 2 * hidden_size * head_dim * (heads + kv_heads);
  const int64_t norms = 2 * hidden_size + (qk_norm ? 2 * head_dim : 0);
  return projections + hidden_size * experts + norms + 3 * hidden_size * shared_inter_size;
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
