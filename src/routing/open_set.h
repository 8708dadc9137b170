// The state of the primal search: which instances are open, what every token takes of them.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "routing/program.h"

namespace thermoe {

// For a set of open instances every token holds its best k: of each expert the best open instance,
// and up to `empty_slots` empty slots of value 0. Kept up to date while instances open and close,
// together with each token's next best, so that what a closing would lose is always known. Exact:
// the state's numbers depend on the set only, not on how it was reached.
class OpenSet {
 public:
  static constexpr int32_t kEmpty = -1, kNone = -2;

  // Opens the union of the tokens' own best. `own_best` [T, k], where given, are the k best experts
  // by value of each token of a program with single instances and no way to leave slots empty.
  void start(const Program& program, std::span<const int32_t> own_best);

  bool is_open(int i) const { return open_[i] != 0; }
  std::span<const uint8_t> flags() const { return {open_.data(), open_.size()}; }
  int open_experts() const { return open_experts_; }
  // min_k experts must stay open.
  bool can_close(int i) const;
  void open(int i);
  void close(int i);  // needs can_close
  // Opens and closes to reach `target` [I].
  void go_to(std::span<const uint8_t> target);

  double objective() const { return value_sum_ - open_sum_; }
  // What the users of i lose, together, if it closes.
  double closing_loss(int i) const { return loss_[i]; }
  double closing_gain(int i) const { return program_->open[i] - loss_[i]; }
  // What opening i alone would gain, its price deducted. Exact for single instances only.
  double opening_gain(int i) const;
  // gains [stride]: what tokens would gain, together, if i opened (its price not deducted).
  void opening_gains(std::vector<double>& gains) const;
  // gains [stride]: the change of the objective if `closing` closed and i opened at once. Exact for
  // single instances; else an estimate. `base` are the opening gains.
  void swap_gains(int closing, std::span<const double> base, std::vector<double>& gains) const;

  std::span<const int32_t> held(int t) const { return {held_.data() + at(t), k_}; }
  double least_value(int t) const { return least_value_[t]; }
  // kNever where nothing else is open.
  double next_value(int t) const { return next_value_[t]; }

 private:
  size_t at(int t) const { return static_cast<size_t>(t) * k_; }
  void select_own_best(int t);
  void find_next(int t);
  void take_back(int t);  // the token's part of the sums, before it changes
  void settle(int t);     // ... and after
  int slot_of(int t, int32_t item) const;
  int slot_of_expert(int t, int32_t expert) const;
  int32_t best_sibling(int t, int32_t i) const;
  void set_penalty(int32_t item, double penalty_if_open);
  void replace(int t, int slot, int32_t item, double value);
  void open_for(int t, int i);
  void close_for(int t, int i);
  void transpose_values();
  const double* column(int i) const { return columns_.data() + static_cast<size_t>(i) * height_; }

  const Program* program_ = nullptr;
  size_t k_ = 0;
  std::vector<uint8_t> open_;        // [I]
  std::vector<int32_t> open_of_;     // [E] how many instances are open
  std::vector<double> penalty_;      // [stride] 0 where open, else kNever
  std::vector<double> loss_;         // [stride]
  std::vector<int32_t> held_;        // [T, k] unordered
  std::vector<double> held_value_;   // [T, k]
  std::vector<double> alternative_;  // [T, k] what the slot falls back to; kNever: nothing
  std::vector<int32_t> least_;       // [T] slot of the least value held
  std::vector<int32_t> next_;        // [T] best item not held
  std::vector<double> next_value_;   // [height_] kNever where there is none
  std::vector<double> columns_;      // [I, height_] the values again, by instance
  std::vector<int32_t> touched_;     // [height_] scratch: tokens that a move concerns
  size_t height_ = 0;                // T, padded
  std::vector<double> least_value_;  // [height_]
  std::vector<std::pair<double, int32_t>> row_;  // [k] scratch
  int open_experts_ = 0;
  double value_sum_ = 0, open_sum_ = 0;
};

}  // namespace thermoe
