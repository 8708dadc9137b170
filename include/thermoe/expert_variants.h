// LayerVariants: in which precisions a checkpoint holds the experts of a layer, and what they cost.
#pragma once

#include <cstdint>
#include <vector>

namespace thermoe {

// One MoE layer; a dense layer's vectors are empty.
struct LayerVariants {
  std::vector<uint8_t> stored, quantized;  // [E] 1 where the expert is held so: as it is, nested
  // [E] relative squared error of the expert's output, mean |y - y'|^2 / mean |y|^2; empty if no
  // expert is quantised
  std::vector<float> int8_error_frac, int4_error_frac;
  // [E] 1 where the expert can run with fp8 arithmetic (of what is stored; on a GPU alone); empty:
  // none. Its error, of the same kind, is every expert's.
  std::vector<uint8_t> fp8 = {};
  float fp8_error_frac = 0;
  // Of one expert as read; stored_bytes: of the original bf16.
  double stored_bytes = 0, int8_bytes = 0, int4_bytes = 0, fp8_bytes = 0;
};

}  // namespace thermoe
