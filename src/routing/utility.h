// What each expert is worth to each token: the formula of utility_model.h, in this place only.
#pragma once

#include <span>
#include <vector>

#include "thermoe/expert_layout.h"
#include "thermoe/utility_model.h"
#include "thermoe/views.h"

namespace thermoe {

// Throws InvalidArgument on a power or scale that is not finite and positive, or a weight of errors
// that is not finite or negative.
void check_utility_model(const UtilityModel& model);

// Throws InvalidArgument where the model has scales but none for `layer`, or not one an expert.
void check_utility_layer(const UtilityModel& model, int layer, int experts);

// What the instances of a layout keep of their experts' utility.
struct KeptUtility {
  std::vector<double> best;      // [E] of the most accurate instance
  std::vector<double> instance;  // [I] of each, of the best's
  bool even = true;              // the same best everywhere: the experts' order is the scores'

  // Without a layout: 1 for each of `experts`.
  void read(const UtilityModel& model, const ExpertLayout* layout, int experts);
};

// Utilities of one token with every expert's most accurate instance, on the grid. `scores` [E],
// `top_ids` [k] its own top-k, `mass` their sum, `utility` [E] out.
void fill_utilities(const UtilityModel& model, int layer, const KeptUtility& kept,
                    std::span<const float> scores, std::span<const int> top_ids, float mass,
                    std::span<double> utility);

// What an unmodified token is worth: the sum of its utilities over its own top-k, to a grid step
// for each.
double top_k_utility(const UtilityModel& model, int layer, std::span<const float> scores,
                     std::span<const int> top_ids, float mass);

}  // namespace thermoe
