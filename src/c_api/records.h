// Between the C interface's structs and the library's.
#pragma once

#include "c_api/boundary.h"
#include "thermoe/hardware_state.h"
#include "thermoe/kernel_cost_model.h"

namespace thermoe::c_api {

// Every reading missing.
thermoe_hardware_state missing_state();
HardwareState read_state(const thermoe_hardware_state* state);
void write_state(const HardwareState& state, thermoe_hardware_state* out);

CostEstimate read_estimate(const thermoe_cost_estimate* estimate);
void write_estimate(const CostEstimate& estimate, thermoe_cost_estimate* out);

CostSurrogate read_surrogate(const thermoe_cost_surrogate* surrogate);
void write_surrogate(const CostSurrogate& surrogate, thermoe_cost_surrogate* out);

}  // namespace thermoe::c_api
