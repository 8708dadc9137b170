// What the opaque handles hold that more than one file of the C interface looks into.
#pragma once

#include "thermoe/c_api.h"
#include "thermoe/expert_layout.h"

struct thermoe_layout {  // NOLINT(readability-identifier-naming): C
  thermoe::ExpertLayout layout;
};

namespace thermoe::c_api {

// A mistaken number must not ask for all of the machine's memory.
constexpr int64_t kMostExperts = 65536;
constexpr int64_t kMostTokens = int64_t{1} << 20;
constexpr int64_t kMostPairs = int64_t{1} << 28;  // an index into a plan's arrays is an int32

}  // namespace thermoe::c_api
