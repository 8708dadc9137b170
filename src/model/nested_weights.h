// Experts that a checkpoint holds as nested planes, and what is known of them.
#pragma once

#include "thermoe/checkpoint.h"
#include "thermoe/expert_variants.h"
#include "thermoe/moe_layer.h"

namespace thermoe {

bool holds_nested_expert(const Checkpoint& checkpoint, int layer, int expert);

// Views of the mapped planes. Throws IoError naming the tensor that is missing, misshapen or holds
// no such value.
QuantizedExpert bind_nested_expert(const Checkpoint& checkpoint, int layer, int expert);

// In which precisions a layer's experts are held, with their measured errors. Throws IoError where
// experts are quantised and their errors are missing or no fractions.
LayerVariants read_variants(const Checkpoint& checkpoint, int layer, const MoeLayer& moe);

}  // namespace thermoe
