// How good a fitted profile's kernels are, for people and programs.
#pragma once

#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "cost/kernel_profile.h"

namespace thermoe::app {

// The columns of a kernel's held-out errors: median and p90 at unseen token counts, of unseen
// shapes, of their power.
std::vector<std::string> held_out_header();
std::vector<std::string> held_out_cells(const cost::MeasuredKernel& kernel);

// op, kernel, dtype, curves and the held-out errors; null where too little was measured for those.
nlohmann::ordered_json kernel_json(const cost::MeasuredKernel& kernel);

}  // namespace thermoe::app
