// The policies of the registry, each defined in a file of its own.
#pragma once

#include "routing/policies/specification.h"

namespace thermoe {

PolicyMaker adaptive_policy();
PolicyMaker top_k_policy();

}  // namespace thermoe
