// Measured against predicted latency along tokens, for typical and for bad shapes of each kernel.
#pragma once

#include <string>

#include "table_errors.h"

namespace thermoe::app {

// Two panels for each kernel of enough shapes: the shape whose median error is the median over the
// kernel's shapes, and the one at the 90th percentile. An SVG that stands alone.
std::string plot_of(const TableErrors& errors, const std::string& title);

}  // namespace thermoe::app
