#include "routing/exact_search.h"

#include <algorithm>
#include <bit>
#include <cmath>

namespace thermoe {

bool ExactSearch::run(const Program& program, const DualBound& dual, OpenSet& state, int nodes) {
  best_ = state.objective();
  bound_ = dual.bound();
  if (bound_ <= best_) return true;
  if (nodes == 0 || !collect(program, dual, bound_ - best_)) return false;
  best_flags_.assign(state.flags().begin(), state.flags().end());
  nodes_left_ = nodes;
  complete_ = true;
  touched_.assign(static_cast<size_t>(program.experts), 0);
  to_bound_set(program, state);
  note(state);
  descend(program, state, 0, 0.0);
  state.go_to(best_flags_);
  return complete_;
}

// False where the bound's own set is not a plan's: too few experts.
bool ExactSearch::collect(const Program& program, const DualBound& dual, double gap) {
  alternatives_.clear();
  current_.resize(static_cast<size_t>(program.experts));
  int open = 0;
  for (int e = 0; e < program.experts; ++e) {
    const std::span<const double> terms = dual.terms(program, e);
    const uint32_t best = dual.best_subset(program, e);
    current_[e] = best;
    open += best != 0;
    if (program.single) {
      const double regret = std::abs(terms[0]);
      if (regret < gap) alternatives_.push_back({regret, e, best ^ 1u});
      continue;
    }
    for (uint32_t s = 0; s < terms.size(); ++s)
      if (s != best && terms[best] - terms[s] < gap)
        alternatives_.push_back({terms[best] - terms[s], e, s});
  }
  std::sort(alternatives_.begin(), alternatives_.end(),
            [](const Alternative& a, const Alternative& b) {
              if (a.regret != b.regret) return a.regret < b.regret;
              return a.expert != b.expert ? a.expert < b.expert : a.subset < b.subset;
            });
  return open >= program.min_k;
}

// Opening first, so that enough experts stay open.
void ExactSearch::to_bound_set(const Program& program, OpenSet& state) {
  flags_.assign(static_cast<size_t>(program.instances), 0);
  for (int e = 0; e < program.experts; ++e)
    for (uint32_t s = current_[e]; s != 0; s &= s - 1)
      flags_[program.first[e] + std::countr_zero(s)] = 1;
  state.go_to(flags_);
}

// Whether the state could be changed: a closing that leaves too few experts cannot.
bool ExactSearch::assign(const Program& program, OpenSet& state, int expert, uint32_t subset) {
  const int first = program.first[expert], count = program.first[expert + 1] - first;
  for (int j = 0; j < count; ++j)
    if ((subset >> j & 1) != 0 && !state.is_open(first + j)) state.open(first + j);
  for (int j = 0; j < count; ++j) {
    if ((subset >> j & 1) != 0 || !state.is_open(first + j)) continue;
    if (!state.can_close(first + j)) return false;
    state.close(first + j);
  }
  return true;
}

void ExactSearch::note(const OpenSet& state) {
  if (state.objective() <= best_) return;
  best_ = state.objective();
  best_flags_.assign(state.flags().begin(), state.flags().end());
}

void ExactSearch::descend(const Program& program, OpenSet& state, size_t from, double used) {
  for (size_t a = from; a < alternatives_.size(); ++a) {
    const Alternative& alternative = alternatives_[a];
    if (used + alternative.regret >= bound_ - best_) return;  // and so are all that follow
    if (touched_[alternative.expert]) continue;
    if (nodes_left_-- <= 0) {
      complete_ = false;
      return;
    }
    const uint32_t before = current_[alternative.expert];
    if (assign(program, state, alternative.expert, alternative.subset)) {
      touched_[alternative.expert] = 1;
      note(state);
      descend(program, state, a + 1, used + alternative.regret);
      touched_[alternative.expert] = 0;
    } else {
      complete_ = false;  // what follows the closing together with an opening stays untried
    }
    assign(program, state, alternative.expert, before);
    if (!complete_) return;
  }
}

}  // namespace thermoe
