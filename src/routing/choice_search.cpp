#include "routing/choice_search.h"

#include <algorithm>

namespace thermoe {
namespace {

constexpr int kExchangePartners = 8;  // closed instances that each open one is exchanged with

}  // namespace

void ChoiceSearch::run(const Program& program, const Costs& costs, const Aim& aim,
                       ChoiceState& state, int rounds, bool exchange) {
  best_ = state.merit(aim);
  for (int round = 0; round < rounds; ++round) {
    bool found = try_instances(program, costs, aim, state);
    found |= try_tokens(program, aim, state);
    if (!found && exchange) found = try_exchanges(program, costs, aim, state);
    if (!found) return;
  }
}

bool ChoiceSearch::keep_if_better(const Aim& aim, ChoiceState& state, size_t mark) {
  const Merit merit = state.merit(aim);
  if (merit.better_than(best_)) {
    best_ = merit;
    state.forget();
    return true;
  }
  state.undo_to(mark);
  return false;
}

bool ChoiceSearch::close(const Program& program, ChoiceState& state, int32_t i) {
  for (const int32_t t : state.token_order()) {
    const int slot = state.slot_of(t, i);
    if (slot < 0) continue;
    const int32_t other = state.best_alternative(t, slot, /*closed_too=*/false);
    if (other == ChoiceState::kNone) return false;
    state.move(t, slot, other);
  }
  return program.tokens > 0;
}

// Tokens that gain most first, up to the capacity.
bool ChoiceSearch::open(const Program& program, const Costs& costs, ChoiceState& state, int32_t i) {
  gains_.clear();
  for (int32_t rank = 0; rank < program.tokens; ++rank) {
    const int32_t t = state.token_order()[rank];
    if (state.value(t, i) <= state.worst_value(t) && program.single) continue;
    if (state.slot_of(t, i) >= 0) continue;
    const int own = state.slot_of_expert(t, program.expert[i]);
    const int slot = own >= 0 ? own : state.worst_slot(t);
    const double gain = state.value(t, i) - state.value(t, state.held(t)[slot]);
    if (gain > 0) gains_.push_back({gain, rank, t});
  }
  std::sort(gains_.begin(), gains_.end(), [](const Gain& a, const Gain& b) {
    return a.value != b.value ? a.value > b.value : a.rank < b.rank;
  });
  bool moved = false;
  for (const Gain& gain : gains_) {
    if (state.tally().load(i) >= costs.capacity[i]) break;
    const int own = state.slot_of_expert(gain.index, program.expert[i]);
    state.move(gain.index, own >= 0 ? own : state.worst_slot(gain.index), i);
    moved = true;
  }
  return moved;
}

bool ChoiceSearch::try_instances(const Program& program, const Costs& costs, const Aim& aim,
                                 ChoiceState& state) {
  bool found = false;
  for (const int32_t i : state.instance_order()) {
    const size_t mark = state.mark();
    const bool done =
        state.tally().load(i) > 0 ? close(program, state, i) : open(program, costs, state, i);
    if (done) {
      found |= keep_if_better(aim, state, mark);
    } else {
      state.undo_to(mark);
    }
  }
  return found;
}

// Closed instances by what tokens would gain from them, most first.
void ChoiceSearch::rank_closed(const Program& program, ChoiceState& state) {
  least_.resize(static_cast<size_t>(program.tokens));
  for (int t = 0; t < program.tokens; ++t) least_[t] = state.worst_value(t);
  sums_.assign(static_cast<size_t>(program.stride), 0.0);
  add_excess(program.values(), least_.data(), program.tokens, program.stride, sums_.data());
  closed_.clear();
  for (int32_t rank = 0; rank < program.instances; ++rank) {
    const int32_t i = state.instance_order()[rank];
    if (state.tally().load(i) == 0 && !state.full(i))
      closed_.push_back({sums_[i] - program.open[i], rank, i});
  }
  std::sort(closed_.begin(), closed_.end(), [](const Gain& a, const Gain& b) {
    return a.value != b.value ? a.value > b.value : a.rank < b.rank;
  });
  if (closed_.size() > kExchangePartners) closed_.resize(kExchangePartners);
}

bool ChoiceSearch::try_exchanges(const Program& program, const Costs& costs, const Aim& aim,
                                 ChoiceState& state) {
  rank_closed(program, state);
  bool found = false;
  for (const int32_t i : state.instance_order()) {
    if (state.tally().load(i) == 0) continue;
    const auto try_with = [&](int32_t j) {
      if (state.tally().load(j) > 0 || state.tally().load(i) == 0) return;
      const size_t mark = state.mark();
      if (open(program, costs, state, j) && close(program, state, i)) {
        found |= keep_if_better(aim, state, mark);
      } else {
        state.undo_to(mark);
      }
    };
    const int e = program.expert[i];
    for (int j = program.first[e]; j < program.first[e + 1]; ++j) try_with(j);
    for (const Gain& other : closed_) try_with(other.index);
  }
  return found;
}

// Each slot to the other instances of its expert, and to the best other expert.
bool ChoiceSearch::try_tokens(const Program& program, const Aim& aim, ChoiceState& state) {
  bool found = false;
  for (const int32_t t : state.token_order()) {
    for (int slot = 0; slot < program.k; ++slot) {
      const auto try_item = [&](int32_t item) {
        if (item == ChoiceState::kNone || item == state.held(t)[slot]) return;
        const size_t mark = state.mark();
        state.move(t, slot, item);
        found |= keep_if_better(aim, state, mark);
      };
      if (const int32_t own = state.held(t)[slot]; own >= 0) {
        const int e = program.expert[own];
        for (int j = program.first[e]; j < program.first[e + 1]; ++j)
          if (!state.full(j)) try_item(j);
      }
      try_item(state.best_alternative(t, slot, /*closed_too=*/false));
      if (state.may_empty(t) && state.held(t)[slot] >= 0) try_item(ChoiceState::kEmpty);
    }
  }
  return found;
}

}  // namespace thermoe
