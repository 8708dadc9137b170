// How many tokens each expert of a device gets, under the loads that the measured tables were made
// with (ai-dynamo/aiconfigurator, its collector's "balanced" and "power_law_<alpha>").
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace thermoe::cost {

// Expected over the load's randomness, for the device's own experts.
struct MoeLoad {
  double assignments = 0;  // token-expert pairs
  double distinct = 0;     // experts with at least one token
  double tile_rows = 0;    // rows computed where each expert's tokens fill whole tiles
};

// Rows of the tile that MoeLoad::tile_rows counts in: the middle of what grouped kernels choose.
inline constexpr double kLoadTileRows = 32;

// The exponent of "power_law_<alpha>", 0 for "balanced". Throws InvalidArgument for other names.
double load_exponent(const std::string& distribution);
// The name of an exponent, load_exponent()'s inverse.
std::string distribution_name(double exponent);

// The load of one of `ep` devices that share `experts` experts (a divisor): the first one's for a
// balanced load, the busiest one's for a power law. exponent: load_exponent()'s. Deterministic.
// Balanced: choice i of token t is expert t + i ceil(experts/top_k), spread evenly for few tokens.
// Power law: sample, scale, round, cap at the token count, then repair the sum: what is missing
// goes to the least busy expert of each device in turn, what is over comes from the busiest. The
// mean of 12 to 64 draws. Up to a millisecond of CPU time for a power law. Throws InvalidArgument
// on sizes below 1, top_k above experts, or an ep that doesn't divide them.
MoeLoad expected_load(int64_t tokens, int experts, int top_k, int ep, double exponent);

// Tokens of each expert of a device that holds them all, to measure under that load: the balanced
// counts, or of a power law's draws the one that is nearest to their mean in distinct experts, then
// in tile rows. None exceeds `tokens` and all sum to tokens * top_k, so that some plan has them.
// Deterministic. Throws as expected_load().
std::vector<int64_t> representative_counts(int64_t tokens, int experts, int top_k, double exponent);

// So many loads as representative_counts() describes one, to measure one after the other: of a
// power law's draws those whose mean is nearest to all draws' in distinct experts and tile rows
// (one draw of few experts is off by up to half an expert). Of a balanced load, which has but one,
// that one.
std::vector<std::vector<int64_t>> representative_loads(int64_t tokens, int experts, int top_k,
                                                       double exponent, int loads);

}  // namespace thermoe::cost
