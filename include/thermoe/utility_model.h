// UtilityModel: what an expert is worth to a token, made of the gate's scores and of calibration.
#pragma once

#include <vector>

namespace thermoe {

// u[t, e] = (k s[t, e] / M[t])^power / k * scale[layer][e], where M[t] is the sum of the token's
// own k highest scores. At power 1 without scales this is the gate mass: a token that keeps its
// top-k has utility exactly 1. At other powers such a token has utility 1 if its weights are equal
// and more the more they lean on few experts. With scales an expert outside the token's own top-k
// is worth at most 0.99 to 1 times the least within, so that top-k stays each token's best choice.
//
// An instance of the expert whose output has a relative error (expert_layout.h) is worth that times
// max(1 - variant_error_weight * error, 1/1024). At power 2 the error that belongs here is the
// relative squared one, mean |y - y'|^2 / mean |y|^2, at power 1 its square root: what is lost of
// the layer's output, in the same power as what an omission loses (docs/utility.md). Where the most
// accurate instances of the layer's experts differ in error, outsiders are capped as with scales.
//
// The default is what measured cross-entropy favours (docs/utility.md): an expert that is left out
// takes its weight times its output from the layer's output, and the harm grows with the square.
struct UtilityModel {
  float power = 2.0f;                     // > 0
  std::vector<std::vector<float>> scale;  // [layers][E], > 0; empty: 1 everywhere
  float variant_error_weight = 1.0f;      // >= 0: harm of an error, in that of an omission

  // The utility of which 1 is the gate mass of one unmodified token.
  static UtilityModel gate_mass() {
    return {.power = 1.0f, .scale = {}, .variant_error_weight = 1.0f};
  }
};

}  // namespace thermoe
