// Which shapes and token counts a calibration measures.
#pragma once

#include <string>
#include <vector>

#include "sweep.h"

namespace thermoe::app {

struct SweepPlan {
  std::vector<cost::KernelShape> shapes;  // experts without a load, and dense products
  std::vector<int64_t> tokens;
};

// The shipped nano model's experts and dense products and neighbours of theirs, enough of them for
// errors on shapes held out; `quick`: fewer, for a first look.
SweepPlan default_sweep(bool quick);

// "256x64e32k4": 32 experts of [hidden 256, intermediate 64], 4 chosen by a token; "256x4096": a
// dense product of 256 inputs and 4096 outputs. Throws InvalidArgument.
cost::KernelShape parse_shape(const std::string& text);

// Every shape's points together, as their weights are made but once: each under a balanced load and
// one of a power law, by tokens, with warm and with cold weights.
std::vector<SweepPoint> points_of(const SweepPlan& plan);

}  // namespace thermoe::app
