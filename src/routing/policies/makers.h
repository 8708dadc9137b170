// The policies of the registry, each defined in a file of its own.
#pragma once

#include "routing/policies/specification.h"

namespace thermoe {

PolicyMaker adaptive_policy();
PolicyMaker cache_prior_policy();
PolicyMaker capacity_drop_policy();
PolicyMaker capacity_expand_policy();
PolicyMaker eplb_policy();
PolicyMaker fewer_k_policy();
PolicyMaker lynx_policy();
PolicyMaker metro_policy();
PolicyMaker min_p_policy();
PolicyMaker oea_policy();
PolicyMaker sere_policy();
PolicyMaker static_mix_policy();
PolicyMaker threshold_policy();
PolicyMaker tile_round_policy();
PolicyMaker top_k_policy();
PolicyMaker top_p_policy();
PolicyMaker xshare_policy();

}  // namespace thermoe
