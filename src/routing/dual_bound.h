// The certificate: an upper bound on every plan's objective, from the program's dual.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "routing/open_set.h"

namespace thermoe {

// With a margin price theta[t] for each token's slots, weak duality gives, for any theta,
//   objective <= k sum_t theta[t] + (k - min_k) sum_t max(0, -theta[t])
//                + sum_e max over subsets S of e's instances of A_e(S),
//   A_e(S) = sum_t max(0, max_{i in S} value[t, i] - theta[t]) - sum_{i in S} open[i], A_e({}) = 0.
// theta is kept on the grid, so the bound is computed without rounding. Keeps its storage.
class DualBound {
 public:
  // Starts between the least value that each token holds and the next it would take: where the
  // relaxation is tight, the optimal theta is there.
  void start(const Program& program, const OpenSet& primal);

  // Subgradient steps of Polyak's length towards `target`, a plan's objective, until the bound is
  // within gap_frac of it or `iterations` are done. Returns the least bound since start().
  double improve(const Program& program, double target, int iterations, double gap_frac);

  // At the best theta found: A_e(S) of expert e, indexed by the bits of S (bit j: the expert's j-th
  // instance), and the best subset.
  std::span<const double> terms(const Program& program, int expert) const;
  uint32_t best_subset(const Program& program, int expert) const;
  double bound() const { return best_; }

  // The pieces of improve(), for a program whose prices change from step to step (the caller then
  // says which theta to keep): the bound at the current theta; the squared length of a subgradient;
  // a step against it; and per instance what the maximiser at theta loads [I] and uses [I].
  double evaluate(const Program& program);
  double slope_norm_squared(const Program& program);
  void step(double length);
  void usage(const Program& program, std::vector<int32_t>& loads, std::vector<uint8_t>& uses) const;
  void keep() { kept_ = current_; }
  void restore() { current_ = kept_; }

 private:
  double evaluate_groups(const Program& program);
  int taken(const Program& program, int t) const;
  void keep_if_best(double bound);
  void start_compact(const Program& program, const OpenSet& primal);
  void lower_floors(const Program& program);
  void compact(const Program& program, int t);
  double evaluate_compact(const Program& program);
  double compact_slope_norm_squared(const Program& program);

  struct Terms {
    std::vector<double> theta;  // [T]
    std::vector<double> value;  // single: [stride] A_e of the one instance; else by expert_at
  };
  Terms current_, kept_;
  // Single instances: improve() looks only at values above a floor under theta; where theta would
  // pass it the floor is lowered, so the bound is the same.
  std::vector<double> floor_, room_;  // [T] and how far the floor is below where it was set
  std::vector<int32_t> entries_;      // [T] how many values are above
  std::vector<int32_t> entry_;        // [T, stride] their instances
  std::vector<double> entry_value_;   // [T, stride]
  std::vector<int32_t> expert_at_;    // [E + 1] offset of the expert's 2^n terms
  std::vector<double> slope_;         // [T] a subgradient
  std::vector<double> penalty_;       // [stride] 0 where the instance pays, else kNever
  std::vector<uint32_t> subset_;      // [E] best subsets at current theta
  double best_ = 0;
};

}  // namespace thermoe
