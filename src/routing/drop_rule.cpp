#include "routing/drop_rule.h"

#include <algorithm>
#include <cmath>

namespace thermoe {

int64_t to_fixed(double value) {
  constexpr double kLargest = 1048576.0;  // 2^20 units: 2^60 in fixed point, room for a few sums
  return std::llround(std::clamp(value, -kLargest, kLargest) * static_cast<double>(kFixedOne));
}

void DropRule::run(const FixedProgram& program, std::optional<int64_t> least_utility) {
  start(program);
  sort_open_experts(program);
  value_cost_.assign(static_cast<size_t>(program.experts), 0);
  utility_cost_.assign(static_cast<size_t>(program.experts), 0);
  if (open_count_ <= program.k) return;
  for (int t = 0; t < program.tokens; ++t) add_costs(program, t, +1);
  while (open_count_ > program.k) {
    const int expert = best_to_close(program, least_utility);
    if (expert < 0) break;
    close(program, expert);
  }
}

void DropRule::start(const FixedProgram& program) {
  k_ = static_cast<size_t>(program.k);
  chosen_.resize(static_cast<size_t>(program.tokens) * k_);
  open_.assign(static_cast<size_t>(program.experts), 0);
  utility_ = 0;
  for (int t = 0; t < program.tokens; ++t) {
    const int64_t* value = program.value_row(t);
    int32_t* ids = chosen_.data() + static_cast<size_t>(t) * k_;
    size_t held = 0;
    for (int32_t e = 0; e < program.experts; ++e) {
      if (held == k_ && value[e] <= value[ids[k_ - 1]]) continue;
      size_t slot = held < k_ ? held++ : k_ - 1;
      for (; slot > 0 && value[e] > value[ids[slot - 1]]; --slot) ids[slot] = ids[slot - 1];
      ids[slot] = e;
    }
    for (size_t slot = 0; slot < k_; ++slot) {
      open_[static_cast<size_t>(ids[slot])] = 1;
      utility_ += program.utility_row(t)[ids[slot]];
    }
  }
  open_count_ = static_cast<int>(std::count(open_.begin(), open_.end(), uint8_t{1}));
}

int64_t DropRule::objective(const FixedProgram& program) const {
  int64_t objective = 0;
  for (int t = 0; t < program.tokens; ++t)
    for (const int32_t e : experts_of(t)) objective += program.value_row(t)[e];
  for (int e = 0; e < program.experts; ++e)
    if (is_open(e)) objective -= program.open[static_cast<size_t>(e)];
  return objective;
}

void DropRule::sort_open_experts(const FixedProgram& program) {
  order_width_ = open_count_;
  order_.resize(static_cast<size_t>(program.tokens) * static_cast<size_t>(order_width_));
  next_.assign(static_cast<size_t>(program.tokens), program.k);
  for (int t = 0; t < program.tokens; ++t) {
    int32_t* order = order_.data() + static_cast<size_t>(t) * static_cast<size_t>(order_width_);
    int32_t* end = order;
    for (int32_t e = 0; e < program.experts; ++e)
      if (is_open(e)) *end++ = e;
    const int64_t* value = program.value_row(t);
    std::sort(order, end, [value](int32_t a, int32_t b) {
      return value[a] != value[b] ? value[a] > value[b] : a < b;
    });
  }
}

int32_t DropRule::next_of(int t) const {
  return order_[static_cast<size_t>(t) * static_cast<size_t>(order_width_) +
                static_cast<size_t>(next_[static_cast<size_t>(t)])];
}

std::optional<int64_t> DropRule::next_value(const FixedProgram& program, int t) const {
  if (open_count_ <= program.k) return std::nullopt;
  return program.value_row(t)[next_of(t)];
}

void DropRule::advance(int t) {
  int32_t& next = next_[static_cast<size_t>(t)];
  do ++next;
  while (next < order_width_ && !is_open(next_of(t)));
}

// Adds (or takes back, sign = -1) what token t loses at each of its experts if that one closes.
void DropRule::add_costs(const FixedProgram& program, int t, int64_t sign) {
  const int64_t* value = program.value_row(t);
  const int64_t* utility = program.utility_row(t);
  const int32_t next = next_of(t);
  for (const int32_t e : experts_of(t)) {
    value_cost_[static_cast<size_t>(e)] += sign * (value[e] - value[next]);
    utility_cost_[static_cast<size_t>(e)] += sign * (utility[e] - utility[next]);
  }
}

int DropRule::best_to_close(const FixedProgram& program,
                            std::optional<int64_t> least_utility) const {
  int best = -1;
  int64_t best_gain = 0;
  for (int e = 0; e < program.experts; ++e) {
    if (!is_open(e)) continue;
    const size_t i = static_cast<size_t>(e);
    const int64_t gain = program.open[i] - value_cost_[i];
    if (gain <= best_gain) continue;
    if (least_utility && utility_ - utility_cost_[i] < *least_utility) continue;
    best = e;
    best_gain = gain;
  }
  return best;
}

void DropRule::close(const FixedProgram& program, int32_t expert) {
  const size_t i = static_cast<size_t>(expert);
  utility_ -= utility_cost_[i];
  open_[i] = 0;
  --open_count_;
  const bool alternatives = open_count_ > program.k;  // else no token has a next any more
  for (int t = 0; t < program.tokens; ++t) {
    int32_t* ids = chosen_.data() + static_cast<size_t>(t) * k_;
    int32_t* slot = std::find(ids, ids + k_, expert);
    const bool uses = slot != ids + k_;
    if (!uses && next_of(t) != expert) continue;
    add_costs(program, t, -1);
    if (uses) *slot = next_of(t);
    if (!alternatives) continue;
    advance(t);
    add_costs(program, t, +1);
  }
}

}  // namespace thermoe
