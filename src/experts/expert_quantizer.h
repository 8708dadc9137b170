// Quantises one expert to nested planes, by the inputs that a calibration sends through it.
#pragma once

#include <cstdint>
#include <vector>

#include "experts/nested_quantizer.h"
#include "kernels/cpu/nested_pack.h"
#include "thermoe/moe_layer.h"
#include "thermoe/quantized_expert.h"
#include "thermoe/simple_expert.h"

namespace thermoe {

// An expert's planes, owned.
struct QuantizedWeights {
  cpu::PackedPlanes gate_up, down;
  float gate_up_base = 1, down_base = 1;
  int32_t plane_ratio = 16;
  // Squared error of the expert's output, relative to its square, over inputs that the rounding did
  // not see; over random ones where there were none.
  float int8_error_frac = 0, int4_error_frac = 0;

  // Looks at this.
  QuantizedExpert expert() const {
    return QuantizedExpert(gate_up.view(gate_up_base, plane_ratio),
                           down.view(down_base, plane_ratio));
  }
};

// Rows of a layer's input [N, hidden], and what an error of the expert's output costs there: the
// square of the weight that the output gets.
struct WeightedRows {
  std::vector<int32_t> rows;
  std::vector<float> worth;
};

struct ExpertInputs {
  ConstMatrix x;
  WeightedRows fit, held_out;
};

// What each expert [E] of a layer is calibrated on: the rows that chose it, and some of all rows,
// spread evenly, that together weigh as much as an average expert's own, so that one that few rows
// chose is not fitted to these alone. Every eighth row is held out. Views of the pass.
std::vector<ExpertInputs> calibration_inputs(const LayerPass& pass);

// Without rows the rounding knows nothing of the inputs. Throws InvalidArgument where the weights
// or inputs are not finite.
QuantizedWeights quantize_expert(const SimpleExpert& expert, const ExpertInputs& inputs,
                                 const NestedRounding& rounding);

}  // namespace thermoe
