// ExpertCalibration: what forward passes over a few hundred tokens say about a model's experts.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

namespace thermoe {

// One MoE layer, over the calibration tokens.
struct LayerCalibration {
  std::vector<float> load_frac;    // [E] share of the token-expert pairs that the expert gets
  std::vector<float> output_norm;  // [E] mean Euclidean norm of its output where it is chosen (over
                                   // all tokens where it never is)
  std::vector<float> similarity;   // [E, E] mean cosine of two experts' outputs on the same tokens,
                                   // over all calibration tokens; symmetric, diagonal 1
};

struct ExpertCalibration {
  std::string model;   // directory name, for people
  int64_t tokens = 0;  // how many were seen
  int experts = 0, top_k = 0;
  std::vector<LayerCalibration> layers;  // by layer number; dense layers are empty

  // Throw IoError naming file and field: not there, not such a file, not finite, shapes that
  // disagree. Saving replaces the file in one step.
  static ExpertCalibration load(const std::filesystem::path& file);
  void save(const std::filesystem::path& file) const;
};

}  // namespace thermoe
