// What each expert is worth to each token: the formula of utility_model.h, in this place only.
#pragma once

#include <span>
#include <vector>

#include "thermoe/utility_model.h"
#include "thermoe/views.h"

namespace thermoe {

// Throws InvalidArgument on a power or scale that is not finite and positive, or layers of
// different lengths.
void check_utility_model(const UtilityModel& model);

// Throws InvalidArgument where the model has scales but none for `layer`, or not one an expert.
void check_utility_layer(const UtilityModel& model, int layer, int experts);

// Utilities of one token, on the grid. `scores` [E], `top_ids` [k] its own top-k, `mass` their sum,
// `utility` [E] out.
void fill_utilities(const UtilityModel& model, int layer, std::span<const float> scores,
                    std::span<const int> top_ids, float mass, std::span<double> utility);

// What an unmodified token is worth: the sum of its utilities over its own top-k, to a grid step
// for each.
double top_k_utility(const UtilityModel& model, int layer, std::span<const float> scores,
                     std::span<const int> top_ids, float mass);

}  // namespace thermoe
