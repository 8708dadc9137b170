// What each instance is worth to a token: routing/utility.cpp and Program::reprice, for one row.
#pragma once

#include "kernels/cuda/routing_warp.cuh"

namespace thermoe::cuda {

// The same bits as the quotient, without a division where k is a power of two.
__device__ inline double divided_by(double value, int k) {
  const double divisor = static_cast<double>(k);
  return (k & (k - 1)) == 0 ? __dmul_rn(value, 1.0 / divisor) : __ddiv_rn(value, divisor);
}

// (k s / mass)^power / k * scale, as fill_utilities has it.
__device__ inline double worth_of_score(const RoutingLaunch& launch, float score, double inverse,
                                        int e) {
  const int k = launch.input.k;
  const double x = __dmul_rn(static_cast<double>(score), inverse);
  double worth = x;
  if (launch.utility_power == 2.0f)
    worth = divided_by(__dmul_rn(x, x), k);
  else if (launch.utility_power == 1.5f)
    worth = divided_by(__dmul_rn(x, __dsqrt_rn(x)), k);
  if (launch.utility_scale != nullptr)
    worth = __dmul_rn(worth, static_cast<double>(launch.utility_scale[e]));
  return fmin(worth, kUtilityLimit);
}

// As cap_outsiders: an expert that is not among the token's own top-k.
__device__ inline Fixed cap_outsider(Fixed worth, double least) {
  constexpr double kRoom = 0.01;
  const double utility = from_fixed(worth), low = __dmul_rn(least, 1.0 - kRoom);
  if (utility <= low) return worth;
  const double part = __ddiv_rn(__dmul_rn(__dmul_rn(least, kRoom), utility),
                                __dadd_rn(utility, __dmul_rn(2.0, least)));
  return to_fixed(__dadd_rn(low, part));
}

// What a token gives an expert, in the expert's most accurate instance.
__device__ inline Fixed worth_of_expert(const RoutingLaunch& launch, float score, double inverse,
                                        int e) {
  const double* kept = launch.instances.kept_best;
  return to_fixed(
      __dmul_rn(worth_of_score(launch, score, inverse, e), kept != nullptr ? kept[e] : 1.0));
}

// The least worth of the token's own top-k. All lanes.
template <int kSlots>
__device__ inline double least_worth(const RoutingLaunch& launch, const TokenScores<kSlots>& scores,
                                     const TopK& top, double inverse, int lane) {
  Key least = ~0ULL;
#pragma unroll
  for (int r = 0; r < kSlots; ++r)
    if (((top.members >> r) & 1u) != 0)
      least = min(least, key_of(worth_of_expert(launch, scores.score[r], inverse, r * 32 + lane)));
  // Turned over, the least is the largest, and a lane without a member has nothing.
  return from_fixed(fixed_of(~warp_best<false>(~least, 0, 0).key));
}

// take(e, utility) for each of the lane's experts, in its most accurate instance. The top-k stays
// each token's best choice where something other than the scores decides: scales, errors, or a bias
// in the selection (of which the CPU knows nothing; it is treated like a scale).
template <int kSlots, typename Take>
__device__ inline void for_each_worth(const RoutingLaunch& launch,
                                      const TokenScores<kSlots>& scores, const TopK& top, int lane,
                                      const Take& take) {
  const double units = launch.utility_power == 1.0f ? 1.0 : static_cast<double>(launch.input.k);
  const double inverse = top.mass > 0.0f ? __ddiv_rn(units, static_cast<double>(top.mass)) : 0.0;
  const bool capped = launch.utility_scale != nullptr || !launch.instances.kept_even ||
                      launch.input.bias != nullptr;
  const double least = capped ? least_worth(launch, scores, top, inverse, lane) : 0.0;
#pragma unroll
  for (int r = 0; r < kSlots; ++r) {
    const int e = r * 32 + lane;
    if (e >= launch.input.experts) continue;
    Fixed worth = worth_of_expert(launch, scores.score[r], inverse, e);
    if (capped && ((top.members >> r) & 1u) == 0) {
      worth = cap_outsider(worth, least);
      // A bias may select an expert of hardly any score: then the grid has no room for the cap.
      if (launch.input.bias != nullptr) worth = min(worth, to_fixed(least) - 1);
    }
    take(e, worth);
  }
}

// Fills a row [rows of 32] with utility - charge, kNever beyond the last instance.
template <int kSlots>
__device__ inline void fill_row(const RoutingLaunch& launch, const Catalog& catalog,
                                const TokenScores<kSlots>& scores, const TopK& top,
                                const Fixed* charge, Fixed* row, int rows, int lane) {
  const double* kept = launch.instances.kept_instance;
  for (int i = catalog.instances + lane; i < rows * 32; i += 32) row[i] = kNeverFixed;
  for_each_worth(launch, scores, top, lane, [&](int e, Fixed worth) {
    for (int i = catalog.begin_of(e); i < catalog.end_of(e); ++i)
      row[i] =
          (kept == nullptr ? worth : to_fixed(__dmul_rn(from_fixed(worth), kept[i]))) - charge[i];
  });
}

}  // namespace thermoe::cuda
