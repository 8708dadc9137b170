// A choice that tokens can be moved in, with its costs, and moves that can be taken back.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "routing/merit.h"
#include "routing/plan_writer.h"
#include "routing/program.h"

namespace thermoe {

// Values (program.value_row) guide where tokens go; utility and cost are the true ones. An instance
// is open where a token uses it. Keeps its storage.
class ChoiceState {
 public:
  static constexpr int32_t kEmpty = -1, kNone = -2;

  void load(const Program& program, const Costs& costs, const InstanceChoice& choice);
  const InstanceChoice& choice() const { return choice_; }
  const CostTally& tally() const { return tally_; }
  double utility() const { return utility_; }
  Merit merit(const Aim& aim) const { return merit_of(aim, utility_, tally_); }

  std::span<const int32_t> held(int t) const { return {choice_.data() + at(t), k()}; }
  int slot_of(int t, int32_t item) const;
  int slot_of_expert(int t, int32_t expert) const;
  // The slot whose item has the least value for the token.
  int worst_slot(int t) const { return worst_[t]; }
  double worst_value(int t) const { return worst_value_[t]; }
  double value(int t, int32_t item) const { return item < 0 ? 0.0 : program_->value_row(t)[item]; }

  void move(int t, int slot, int32_t item);
  bool may_empty(int t) const { return used_slots_[t] > program_->min_k; }
  bool full(int32_t i) const { return tally_.load(i) >= costs_->capacity[i]; }
  // The best item that could replace the slot's: open instances with room, or all with room
  // (`closed_too`), of experts that no other slot holds; or nothing. kNone: there is none.
  int32_t best_alternative(int t, int slot, bool closed_too);

  // Moves since the mark can be taken back.
  size_t mark() const { return log_.size(); }
  void undo_to(size_t mark);
  void forget() { log_.clear(); }

  // Tokens [T] and instances [I] in an order that depends on their numbers only, not on where they
  // stand: what is tried first is then the same for every permutation of the batch.
  std::span<const int32_t> token_order() const { return token_order_; }
  std::span<const int32_t> instance_order() const { return instance_order_; }
  // Once per batch, before load().
  void set_orders(const Program& program, const Costs& costs);

 private:
  struct Move {
    int32_t token, slot, before;
  };
  size_t k() const { return static_cast<size_t>(program_->k); }
  size_t at(int t) const { return static_cast<size_t>(t) * k(); }
  void apply(int t, int slot, int32_t item);
  void refresh_penalty(int32_t i);
  void refresh_worst(int t);

  const Program* program_ = nullptr;
  const Costs* costs_ = nullptr;
  InstanceChoice choice_;
  CostTally tally_;
  double utility_ = 0;
  std::vector<int32_t> used_slots_;                 // [T]
  std::vector<int32_t> worst_;                      // [T]
  std::vector<double> worst_value_;                 // [T]
  std::vector<double> open_penalty_, all_penalty_;  // [stride] kNever where no token may go
  std::vector<Move> log_;
  std::vector<int32_t> token_order_, instance_order_;
  std::vector<uint64_t> keys_;
};

}  // namespace thermoe
