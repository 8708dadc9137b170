#include "routing/utility.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "routing/grid.h"
#include "thermoe/error.h"

namespace thermoe {
namespace {

// (k s / mass)^power * scale / k for a whole row. `raise` is inlined, so each common power has its
// own vectorised loop; only other powers call pow().
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

// Scales and errors may not lift an expert over one of the token's own top-k: each outsider is
// worth less than the least of them, in the order of what the scales say.
void cap_outsiders(std::span<const float> scores, std::span<const int> top_ids,
                   std::span<double> utility) {
  double least = kLargestUtility;
  for (const int id : top_ids) least = std::min(least, utility[static_cast<size_t>(id)]);
  const float last = scores[static_cast<size_t>(top_ids.back())];
  const auto outside = [&](size_t e) {
    return scores[e] < last ||
           (scores[e] == last &&
            std::find(top_ids.begin(), top_ids.end(), static_cast<int>(e)) == top_ids.end());
  };
  constexpr double kRoom = 0.01;  // of the least, in which capped outsiders keep their order
  for (size_t e = 0; e < utility.size(); ++e) {
    const double low = least * (1.0 - kRoom);
    if (utility[e] <= low || !outside(e)) continue;
    utility[e] = to_grid(low + least * kRoom * utility[e] / (utility[e] + 2.0 * least));
  }
}

}  // namespace

void check_utility_model(const UtilityModel& model) {
  if (!(model.power > 0.0f) || !std::isfinite(model.power))
    throw InvalidArgument(
        fmt::format("the utility's power is {}: it must be positive and finite", model.power));
  if (!(model.variant_error_weight >= 0.0f) || !std::isfinite(model.variant_error_weight))
    throw InvalidArgument(
        fmt::format("the weight of variants' errors is {}: it must be finite and not negative",
                    model.variant_error_weight));
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

void KeptUtility::read(const UtilityModel& model, const ExpertLayout* layout, int experts) {
  constexpr double kLeast = 1.0 / 1024;  // an expert that is used at all is worth something
  best.assign(static_cast<size_t>(experts), 1.0);
  instance.clear();
  even = true;
  if (layout == nullptr) return;
  for (int e = 0; e < experts; ++e) {
    const int begin = layout->first[static_cast<size_t>(e)];
    double& most = best[static_cast<size_t>(e)];
    most = 0;
    for (int i = begin; i < begin + static_cast<int>(layout->of(e).size()); ++i) {
      instance.push_back(std::max(kLeast, 1.0 - static_cast<double>(model.variant_error_weight) *
                                                    static_cast<double>(layout->error_of(i))));
      most = std::max(most, instance.back());
    }
    for (size_t i = static_cast<size_t>(begin); i < instance.size(); ++i) instance[i] /= most;
    even = even && most == best.front();
  }
}

void fill_utilities(const UtilityModel& model, int layer, const KeptUtility& kept,
                    std::span<const float> scores, std::span<const int> top_ids, float mass,
                    std::span<double> utility) {
  const float* scale =
      model.scale.empty() ? nullptr : model.scale[static_cast<size_t>(layer)].data();
  const double k = static_cast<double>(top_ids.size());
  const double inverse = (model.power == 1.0f ? 1.0 : k) / static_cast<double>(mass);
  const double power = static_cast<double>(model.power);
  if (model.power == 1.0f)
    raise_row(
        scores, inverse, scale, [](double x) { return x; }, utility);
  else if (model.power == 2.0f)
    raise_row(
        scores, inverse, scale, [k](double x) { return x * x / k; }, utility);
  else if (model.power == 1.5f)
    raise_row(
        scores, inverse, scale, [k](double x) { return x * std::sqrt(x) / k; }, utility);
  else
    raise_row(
        scores, inverse, scale, [power, k](double x) { return std::pow(x, power) / k; }, utility);
  for (size_t e = 0; e < utility.size(); ++e)
    utility[e] = to_grid(std::min(utility[e], kLargestUtility) * kept.best[e]);
  if (scale != nullptr || !kept.even) cap_outsiders(scores, top_ids, utility);
}

double top_k_utility(const UtilityModel& model, int layer, std::span<const float> scores,
                     std::span<const int> top_ids, float mass) {
  if (model.power == 1.0f && model.scale.empty()) return 1.0;  // shares of the mass
  const double k = static_cast<double>(top_ids.size());
  double sum = 0;
  for (const int id : top_ids) {
    const size_t e = static_cast<size_t>(id);
    const double share = static_cast<double>(scores[e]) / static_cast<double>(mass);
    double worth = std::pow(k * share, static_cast<double>(model.power)) / k;
    if (!model.scale.empty())
      worth *= static_cast<double>(model.scale[static_cast<size_t>(layer)][e]);
    sum += to_grid(std::min(worth, kLargestUtility));
  }
  return sum;
}

}  // namespace thermoe
