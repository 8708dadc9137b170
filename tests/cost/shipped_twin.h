// The shipped H100's twin, as its file has it.
#pragma once

#include "cost/paths.h"
#include "thermoe/digital_twin.h"

namespace thermoe::test {

inline TwinParameters h100_twin() { return read_twin_parameters(h100_power()); }

}  // namespace thermoe::test
