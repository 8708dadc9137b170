#include "routing/exact_search.h"

#include <algorithm>
#include <bit>
#include <cmath>

namespace thermoe {

bool ExactSearch::run(const Program& program, const DualBound& dual, OpenSet& state, int nodes) {
  best_ = state.objective();
  bound_ = dual.bound();
  if (bound_ <= best_) return true;
  if (nodes == 0) return false;
  collect(program, dual, bound_ - best_);
  best_flags_.assign(state.flags().begin(), state.flags().end());
  nodes_left_ = nodes;
  complete_ = true;
  touched_.assign(static_cast<size_t>(program.experts), 0);
  pending_.clear();
  to_bound_set(program, state);
  note(state);
  descend(program, state, 0, 0.0);
  state.go_to(best_flags_);
  return complete_;
}

void ExactSearch::collect(const Program& program, const DualBound& dual, double gap) {
  alternatives_.clear();
  current_.resize(static_cast<size_t>(program.experts));
  for (int e = 0; e < program.experts; ++e) {
    const std::span<const double> terms = dual.terms(program, e);
    const uint32_t best = dual.best_subset(program, e);
    current_[e] = best;
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
}

// Opens all of the set before it closes anything, so that no closing is held up for long.
void ExactSearch::to_bound_set(const Program& program, OpenSet& state) {
  for (int e = 0; e < program.experts; ++e)
    for (uint32_t s = current_[e]; s != 0; s &= s - 1)
      if (const int i = program.first[e] + std::countr_zero(s); !state.is_open(i)) state.open(i);
  for (int e = 0; e < program.experts; ++e) assign(program, state, e, current_[e]);
}

// A set of fewer than min_k experts is no plan's, but one that follows may be: closings that the
// state does not allow wait in `pending_` until an opening makes room for them.
void ExactSearch::assign(const Program& program, OpenSet& state, int expert, uint32_t subset) {
  current_[expert] = subset;
  for (uint32_t s = subset; s != 0; s &= s - 1)
    if (const int i = program.first[expert] + std::countr_zero(s); !state.is_open(i)) state.open(i);
  if (!close_rest(program, state, expert) &&
      std::find(pending_.begin(), pending_.end(), expert) == pending_.end())
    pending_.push_back(expert);
  std::erase_if(pending_, [&](int32_t e) { return close_rest(program, state, e); });
}

// Closes what is open beyond the expert's subset; whether all of it could be.
bool ExactSearch::close_rest(const Program& program, OpenSet& state, int expert) {
  bool done = true;
  for (int i = program.first[expert]; i < program.first[expert + 1]; ++i) {
    if ((current_[expert] >> (i - program.first[expert]) & 1) != 0 || !state.is_open(i)) continue;
    if (state.can_close(i))
      state.close(i);
    else
      done = false;
  }
  return done;
}

void ExactSearch::note(const OpenSet& state) {
  if (state.objective() <= best_) return;
  best_ = state.objective();
  best_flags_.assign(state.flags().begin(), state.flags().end());
}

// What the state's objective would become, where that is known without changing it: one closing or
// opening of an expert's only instance. kNever: not possible.
double ExactSearch::outlook(const Program& program, const OpenSet& state, int expert) const {
  const int i = program.first[expert];
  if (!state.is_open(i)) return state.objective() + state.opening_gain(i);
  return state.can_close(i) ? state.objective() + state.closing_gain(i) : kNever;
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
    const bool deeper = a + 1 < alternatives_.size() &&
                        used + alternative.regret + alternatives_[a + 1].regret < bound_ - best_;
    if (program.single && !deeper && pending_.empty() &&
        outlook(program, state, alternative.expert) <= best_)
      continue;
    const uint32_t before = current_[alternative.expert];
    assign(program, state, alternative.expert, alternative.subset);
    note(state);
    if (deeper) {
      touched_[alternative.expert] = 1;
      descend(program, state, a + 1, used + alternative.regret);
      touched_[alternative.expert] = 0;
    }
    assign(program, state, alternative.expert, before);
    if (!complete_) return;
  }
}

}  // namespace thermoe
