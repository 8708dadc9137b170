// One batch's routing program with additive prices: what the primal search and the dual bound
// share.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "routing/grid.h"
#include "routing/row_kernels.h"

namespace thermoe {

// T tokens choose min_k to k of E experts, each in one of its instances (I in all, by expert).
//   maximise  sum value[t, i] x[t, i] - sum open[i] max_t x[t, i]
// All numbers on the grid. Rows are `stride` apart, padded with kNever.
struct Program {
  int tokens = 0, experts = 0, instances = 0, k = 0, min_k = 0, stride = 0;
  bool single = true;           // every expert has one instance: instance i is expert i
  std::vector<int32_t> expert;  // [I]
  std::vector<int32_t> first;   // [E + 1] instances of expert e: first[e] .. first[e + 1] - 1
  std::vector<double> utility;  // [T, stride] u (1 - error)
  std::vector<double> value;    // [T, stride], where `priced`; else the values are the utilities
  std::vector<double> open;     // [stride]
  bool priced = false;

  const double* utility_row(int t) const { return utility.data() + row(t); }
  double* utility_row(int t) { return utility.data() + row(t); }
  const double* values() const { return priced ? value.data() : utility.data(); }
  const double* value_row(int t) const { return values() + row(t); }
  int empty_slots() const { return k - min_k; }  // that a token may leave

  // Sizes for a batch; `first` and `expert` are the identity where `layout_first` is empty.
  void resize(int token_count, int expert_count, std::span<const int32_t> layout_first);
  // value = utility - charge[i], open = opening[i]; charge and opening [I], rounded down to the
  // grid, so that the priced program's optimum is never below the exact one's.
  void reprice(std::span<const double> charge, std::span<const double> opening);

 private:
  size_t row(int t) const { return static_cast<size_t>(t) * static_cast<size_t>(stride); }
  std::vector<double> charge_;
};

}  // namespace thermoe
