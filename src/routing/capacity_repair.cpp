#include "routing/capacity_repair.h"

#include <algorithm>

namespace thermoe {

bool CapacityRepair::run(const Program& program, const Costs& costs, ChoiceState& state) {
  if (state.tally().excess_load() == 0) return true;
  for (const int32_t i : state.instance_order()) shed(program, costs, state, i);
  for (const int32_t i : state.instance_order())
    while (state.tally().load(i) > costs.capacity[i])
      if (!shift_chain(program, costs, state, i)) break;
  return state.tally().excess_load() == 0;
}

void CapacityRepair::shed(const Program& program, const Costs& costs, ChoiceState& state,
                          int32_t i) {
  if (state.tally().load(i) <= costs.capacity[i]) return;
  losses_.clear();
  for (int32_t rank = 0; rank < program.tokens; ++rank) {
    const int32_t t = state.token_order()[rank];
    const int slot = state.slot_of(t, i);
    if (slot < 0) continue;
    const int32_t other = state.best_alternative(t, slot, /*closed_too=*/true);
    if (other == ChoiceState::kNone) continue;
    losses_.push_back({state.value(t, i) - state.value(t, other), rank, t});
  }
  std::sort(losses_.begin(), losses_.end(), [](const Loss& a, const Loss& b) {
    return a.value != b.value ? a.value < b.value : a.rank < b.rank;
  });
  for (const Loss& loss : losses_) {
    if (state.tally().load(i) <= costs.capacity[i]) return;
    const int slot = state.slot_of(loss.token, i);
    // Open instances first; a closed one is opened only where no other has room.
    int32_t other = state.best_alternative(loss.token, slot, /*closed_too=*/false);
    const int32_t any = state.best_alternative(loss.token, slot, /*closed_too=*/true);
    if (other == ChoiceState::kNone ||
        (any >= 0 &&
         state.value(loss.token, any) - program.open[any] > state.value(loss.token, other)))
      other = any;
    if (other != ChoiceState::kNone) state.move(loss.token, slot, other);
  }
}

// Breadth first over instances: j is reached from i where some user of i may move to j.
bool CapacityRepair::shift_chain(const Program& program, const Costs& costs, ChoiceState& state,
                                 int32_t from) {
  constexpr int32_t kUnreached = -2, kStart = -1;
  reached_.assign(static_cast<size_t>(program.instances), {kUnreached, 0});
  reached_[from] = {kStart, 0};
  queue_.assign(1, from);
  const auto finish = [&](int32_t i, int32_t token, int32_t to) {
    // Back along the path, each token moves one instance on.
    while (true) {
      state.move(token, state.slot_of(token, i), to);
      if (reached_[i].from == kStart) return;
      to = i;
      token = reached_[i].token;
      i = reached_[i].from;
    }
  };
  for (size_t next = 0; next < queue_.size(); ++next) {
    const int32_t i = queue_[next];
    for (const int32_t t : state.token_order()) {
      if (state.slot_of(t, i) < 0) continue;
      if (state.may_empty(t)) {
        finish(i, t, ChoiceState::kEmpty);
        return true;
      }
      for (const int32_t j : state.instance_order()) {
        if (reached_[j].from != kUnreached || costs.capacity[j] == 0) continue;
        const int holder = state.slot_of_expert(t, program.expert[j]);
        if (holder >= 0 && program.expert[j] != program.expert[i]) continue;
        if (!state.full(j)) {
          finish(i, t, j);
          return true;
        }
        reached_[j] = {i, t};
        queue_.push_back(j);
      }
    }
  }
  return false;
}

}  // namespace thermoe
