#include "routing/utility.h"

#include <fmt/format.h>

#include <cmath>

#include "routing/grid.h"
#include "thermoe/error.h"

namespace thermoe {
namespace {

// (s / mass)^power * scale for a whole row. `raise` is inlined, so each common power has its own
// vectorised loop; only other powers call pow().
template <typename Raise>
void raise_row(std::span<const float> scores, double inverse_mass, const float* scale, Raise raise,
               std::span<double> out) {
  if (scale == nullptr) {
    for (size_t e = 0; e < scores.size(); ++e)
      out[e] = raise(static_cast<double>(scores[e]) * inverse_mass);
  } else {
    for (size_t e = 0; e < scores.size(); ++e)
      out[e] = raise(static_cast<double>(scores[e]) * inverse_mass) * static_cast<double>(scale[e]);
  }
}

}  // namespace

void check_utility_model(const UtilityModel& model) {
  if (!(model.power > 0.0f) || !std::isfinite(model.power))
    throw InvalidArgument(
        fmt::format("the utility's power is {}: it must be positive and finite", model.power));
  for (size_t layer = 0; layer < model.scale.size(); ++layer)
    for (size_t e = 0; e < model.scale[layer].size(); ++e)
      if (!(model.scale[layer][e] > 0.0f) || !std::isfinite(model.scale[layer][e]))
        throw InvalidArgument(
            fmt::format("the utility's scale of layer {}, expert {} is {}: it must be positive and "
                        "finite",
                        layer, e, model.scale[layer][e]));
}

void check_utility_layer(const UtilityModel& model, int layer, int experts) {
  if (model.scale.empty()) return;
  const size_t layers = model.scale.size();
  if (layer < 0 || static_cast<size_t>(layer) >= layers)
    throw InvalidArgument(fmt::format(
        "the utility has scales for {} layers: there is none for layer {}", layers, layer));
  const size_t given = model.scale[static_cast<size_t>(layer)].size();
  if (given != static_cast<size_t>(experts))
    throw InvalidArgument(
        fmt::format("the utility has {} scales in layer {} for {} experts: give one for each",
                    given, layer, experts));
}

void fill_utilities(const UtilityModel& model, int layer, std::span<const float> scores,
                    std::span<const int> top_ids, float mass, std::span<double> utility) {
  const float* scale =
      model.scale.empty() ? nullptr : model.scale[static_cast<size_t>(layer)].data();
  const double inverse = 1.0 / static_cast<double>(mass);
  const double power = static_cast<double>(model.power);
  if (model.power == 1.0f)
    raise_row(
        scores, inverse, scale, [](double x) { return x; }, utility);
  else if (model.power == 2.0f)
    raise_row(
        scores, inverse, scale, [](double x) { return x * x; }, utility);
  else if (model.power == 1.5f)
    raise_row(
        scores, inverse, scale, [](double x) { return x * std::sqrt(x); }, utility);
  else
    raise_row(
        scores, inverse, scale, [power](double x) { return std::pow(x, power); }, utility);
  double own = 0;
  for (const int id : top_ids) own += utility[static_cast<size_t>(id)];
  const double share = own > 0.0 ? 1.0 / own : 0.0;  // 0 only if every power underflows
  for (double& value : utility) value = to_grid(std::min(value * share, kLargestUtility));
}

}  // namespace thermoe
