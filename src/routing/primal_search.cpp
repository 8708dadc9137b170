#include "routing/primal_search.h"

namespace thermoe {

void PrimalSearch::climb(const Program& program, OpenSet& state) {
  do {
    while (close_best(program, state)) {
    }
  } while (open_best(program, state));
}

bool PrimalSearch::close_best(const Program& program, OpenSet& state) {
  int best = -1;
  double best_gain = 0;
  for (int i = 0; i < program.instances; ++i) {
    if (!state.is_open(i)) continue;
    const double gain = program.open[i] - state.closing_loss(i);
    if (gain <= best_gain || !state.can_close(i)) continue;
    best = i;
    best_gain = gain;
  }
  if (best < 0) return false;
  state.close(best);
  return true;
}

bool PrimalSearch::open_best(const Program& program, OpenSet& state) {
  state.opening_gains(gains_);
  int best = -1;
  double best_gain = 0;
  for (int i = 0; i < program.instances; ++i) {
    const double gain = gains_[i] - program.open[i];
    if (gain <= best_gain || state.is_open(i)) continue;
    best = i;
    best_gain = gain;
  }
  if (best < 0) return false;
  state.open(best);
  return true;
}

bool PrimalSearch::climb_by_swaps(const Program& program, OpenSet& state) {
  bool found = false;
  while (swap_best(program, state)) {
    found = true;
    climb(program, state);
  }
  return found;
}

// A gain that is only an estimate (several instances an expert) is checked by doing it.
bool PrimalSearch::try_swap(OpenSet& state, int closing, int opening) {
  const double before = state.objective();
  state.open(opening);
  if (state.can_close(closing)) {
    state.close(closing);
    if (state.objective() > before) return true;
    state.open(closing);
  }
  // Opening alone did not gain, or climb() would have done it; so it can be taken back.
  state.close(opening);
  return false;
}

bool PrimalSearch::swap_best(const Program& program, OpenSet& state) {
  state.opening_gains(gains_);
  int best_closing = -1, best_opening = -1;
  double best_gain = 0;
  for (int a = 0; a < program.instances; ++a) {
    if (!state.is_open(a)) continue;
    if (!program.single)
      for (int b = program.first[program.expert[a]]; b < program.first[program.expert[a] + 1]; ++b)
        if (!state.is_open(b) && try_swap(state, a, b)) return true;
    state.swap_gains(a, gains_, swap_gains_);
    for (int b = 0; b < program.instances; ++b) {
      if (state.is_open(b) || swap_gains_[b] <= best_gain) continue;
      best_gain = swap_gains_[b];
      best_closing = a;
      best_opening = b;
    }
  }
  return best_closing >= 0 && try_swap(state, best_closing, best_opening);
}

}  // namespace thermoe
