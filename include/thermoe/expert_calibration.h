// ExpertCalibration: what forward passes over a few hundred tokens say about a model's experts.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "thermoe/utility_model.h"

namespace thermoe {

// One MoE layer, over the calibration tokens.
struct LayerCalibration {
  std::vector<float> load_frac;    // [E] share of the token-expert pairs that the expert gets
  std::vector<float> output_norm;  // [E] mean Euclidean norm of its output where it is chosen (over
                                   // the tokens of `similarity` where it never is)
  std::vector<float> similarity;   // [E, E] mean cosine of two experts' outputs on the same tokens,
                                   // chosen or not, over `similarity_tokens` of the calibration
                                   // tokens (0 where an output is 0); symmetric, diagonal 1
  // [E] mean squared norm, over the same tokens as output_norm
  std::vector<float> output_square = {};
};

struct ExpertCalibration {
  std::string model;              // directory name, for people
  int64_t tokens = 0;             // how many were seen
  int64_t similarity_tokens = 0;  // on how many of them every expert ran
  int experts = 0, top_k = 0;
  std::vector<LayerCalibration> layers;  // by layer number; dense layers are empty

  // A JSON file with every norm to 6 significant digits and every cosine to 4 decimals. Throw
  // IoError naming file and field: not there, not such a file, not finite, shapes that disagree.
  // Saving replaces the file in one step.
  static ExpertCalibration load(const std::filesystem::path& file);
  void save(const std::filesystem::path& file) const;
};

// u[t, e] in proportion to (s[t, e] / M[t])^power * (norm[e] / mean norm of the layer)^norm_power:
// what an expert adds to the layer's output is its weight times its output, so a large output is
// missed more than its weight says. A norm below 1e-3 of the layer's mean counts as that much;
// dense layers have scale 1. Throws InvalidArgument unless `power` is finite and above 0 and
// `norm_power` in [-8, 8].
UtilityModel calibrated_utility(const ExpertCalibration& calibration, float power,
                                float norm_power);

}  // namespace thermoe
