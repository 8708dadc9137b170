// UtilityModel: what an expert is worth to a token, made of the gate's scores and of calibration.
#pragma once

#include <vector>

namespace thermoe {

// u[t, e] = (s[t, e] / M[t])^power * scale[layer][e], divided by the same sum over the token's own
// top-k, so that a token that keeps its top-k has utility exactly 1; M[t] is its top-k mass. The
// default (power 1, no scale) is the gate mass. docs/theory.md says why, bench/results what each
// choice costs in cross-entropy.
struct UtilityModel {
  float power = 1.0f;                          // > 0
  std::vector<std::vector<float>> scale = {};  // [layers][E], > 0; empty: 1 everywhere
};

}  // namespace thermoe
