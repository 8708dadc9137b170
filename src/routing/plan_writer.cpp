#include "routing/plan_writer.h"

#include <algorithm>

#include "routing/top_k.h"

namespace thermoe {

bool ChoiceMaker::before(const Item& a, const Item& b) {
  if (a.value != b.value) return a.value > b.value;
  if (a.score != b.score) return a.score > b.score;
  return a.instance < b.instance;
}

void ChoiceMaker::choose(const Program& program, const OpenSet& state, ConstMatrix scores,
                         InstanceChoice& choice) {
  const size_t k = static_cast<size_t>(program.k);
  choice.resize(static_cast<size_t>(program.tokens) * k);
  for (int t = 0; t < program.tokens; ++t) {
    int32_t* out = choice.data() + static_cast<size_t>(t) * k;
    if (program.single && state.least_value(t) > state.next_value(t)) {
      std::copy_n(state.held(t).data(), k, out);  // no tie: only one best choice
    } else {
      choose_token(program, state, scores.row(t), t, out);
    }
  }
}

void ChoiceMaker::choose_token(const Program& program, const OpenSet& state, const float* scores,
                               int t, int32_t* out) {
  const double* value = program.value_row(t);
  const size_t k = static_cast<size_t>(program.k);
  items_.resize(k);
  size_t count = 0;
  for (int e = 0; e < program.experts; ++e) {
    int32_t best = -1;
    for (int i = program.first[e]; i < program.first[e + 1]; ++i)
      if (state.is_open(i) && (best < 0 || value[i] > value[best])) best = i;
    if (best < 0) continue;
    const Item item{value[best], scores[e], best};
    if (count == k && !before(item, items_[k - 1])) continue;
    size_t slot = count < k ? count++ : k - 1;
    for (; slot > 0 && before(item, items_[slot - 1]); --slot) items_[slot] = items_[slot - 1];
    items_[slot] = item;
  }
  for (size_t s = 0; s < k; ++s) {
    const bool empty =
        s >= count || (s >= static_cast<size_t>(program.min_k) && items_[s].value < 0.0);
    out[s] = empty ? -1 : items_[s].instance;
  }
}

void PlanWriter::write(const RoutingRequest& request, const Program& program,
                       const InstanceChoice& choice, std::span<const float> masses,
                       RoutingPlan& plan) {
  const size_t k = static_cast<size_t>(plan.k);
  plan.instances.resize(plan.ids.size());
  used_experts_.assign(static_cast<size_t>(program.experts), 0);
  used_instances_.assign(static_cast<size_t>(program.instances), 0);
  double kept = 0;
  for (int t = 0; t < plan.tokens; ++t)
    kept += write_token(request, program, {choice.data() + static_cast<size_t>(t) * k, k},
                        masses[static_cast<size_t>(t)], t, plan);
  const auto ones = [](const std::vector<uint8_t>& flags) {
    return static_cast<int>(std::count(flags.begin(), flags.end(), uint8_t{1}));
  };
  plan.report.gate_mass_frac = kept / plan.tokens;
  plan.report.distinct_experts = ones(used_experts_);
  plan.report.distinct_instances = ones(used_instances_);
}

// Returns the token's kept gate mass, at most 1, on the grid (so that the mean does not depend on
// the order of the tokens).
double PlanWriter::write_token(const RoutingRequest& request, const Program& program,
                               std::span<const int32_t> chosen, float mass, int t,
                               RoutingPlan& plan) {
  const float* scores = request.scores.row(t);
  const size_t k = chosen.size(), at = static_cast<size_t>(t) * k;
  const std::span<int32_t> ids(plan.ids.data() + at, k);
  sorted_.clear();
  for (const int32_t i : chosen)
    if (i >= 0) sorted_.push_back(i);
  const auto score = [&](int32_t i) { return scores[program.expert[i]]; };
  std::sort(sorted_.begin(), sorted_.end(), [&](int32_t a, int32_t b) {
    return score(a) != score(b) ? score(a) > score(b) : a < b;
  });
  bool same = sorted_.size() == k;
  for (size_t s = 0; s < sorted_.size(); ++s) {
    const int32_t i = sorted_[s], e = program.expert[i];
    same = same && ids[s] == e;
    ids[s] = e;
    plan.instances[at + s] = i;
    used_experts_[e] = used_instances_[i] = 1;
  }
  for (size_t s = sorted_.size(); s < k; ++s) ids[s] = plan.instances[at + s] = -1;
  if (same) return 1.0;
  plan.changed[static_cast<size_t>(t)] = 1;
  ++plan.report.changed_tokens;
  share_weights(request.scores.row_span(t), ids.first(sorted_.size()), mass, request.renormalize,
                {plan.weights.data() + at, k});
  std::fill(plan.weights.begin() + static_cast<std::ptrdiff_t>(at + sorted_.size()),
            plan.weights.begin() + static_cast<std::ptrdiff_t>(at + k), 0.0f);
  double kept = 0;
  for (size_t s = 0; s < sorted_.size(); ++s) kept += static_cast<double>(scores[ids[s]]);
  return std::min(1.0, to_grid(kept / static_cast<double>(mass)));
}

}  // namespace thermoe
