#include "routing/choice_state.h"

#include <algorithm>
#include <bit>
#include <limits>
#include <numeric>

namespace thermoe {
namespace {

// The finalizer of SplitMix64 (Steele, Lea, Flood 2014): sums of it tell multisets apart.
uint64_t mix(double value) {
  uint64_t x = std::bit_cast<uint64_t>(value) + 0x9e3779b97f4a7c15u;
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
  x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
  return x ^ (x >> 31);
}

void order_by_keys(const std::vector<uint64_t>& keys, std::vector<int32_t>& order) {
  order.resize(keys.size());
  std::iota(order.begin(), order.end(), 0);
  std::sort(order.begin(), order.end(), [&keys](int32_t a, int32_t b) {
    return keys[a] != keys[b] ? keys[a] < keys[b] : a < b;
  });
}

}  // namespace

void ChoiceState::set_orders(const Program& program, const Costs& costs) {
  keys_.assign(static_cast<size_t>(program.tokens), 0);
  for (int t = 0; t < program.tokens; ++t)
    for (int i = 0; i < program.instances; ++i) keys_[t] += mix(program.utility_row(t)[i]);
  order_by_keys(keys_, token_order_);
  keys_.assign(static_cast<size_t>(program.instances), 0);
  for (int t = 0; t < program.tokens; ++t)
    for (int i = 0; i < program.instances; ++i) keys_[i] += mix(program.utility_row(t)[i]);
  for (int i = 0; i < program.instances; ++i)
    keys_[i] += 3 * mix(costs.open[i]) + 5 * mix(costs.slope[i]) + 7 * mix(costs.device_open[i]) +
                11 * mix(costs.device_slope[i]) + 13 * mix(costs.device[i]);
  order_by_keys(keys_, instance_order_);
}

void ChoiceState::load(const Program& program, const Costs& costs, const InstanceChoice& choice) {
  program_ = &program;
  costs_ = &costs;
  choice_ = choice;
  tally_.reset(costs, program.instances);
  log_.clear();
  utility_ = 0;
  used_slots_.assign(static_cast<size_t>(program.tokens), 0);
  open_penalty_.assign(static_cast<size_t>(program.stride), kNever);
  all_penalty_.assign(static_cast<size_t>(program.stride), kNever);
  for (int t = 0; t < program.tokens; ++t)
    for (const int32_t i : held(t)) {
      if (i < 0) continue;
      tally_.add(costs, i, 1);
      utility_ += program.utility_row(t)[i];
      ++used_slots_[t];
    }
  worst_.resize(static_cast<size_t>(program.tokens));
  worst_value_.resize(static_cast<size_t>(program.tokens));
  for (int t = 0; t < program.tokens; ++t) refresh_worst(t);
  for (int i = 0; i < program.instances; ++i) refresh_penalty(i);
}

int ChoiceState::slot_of(int t, int32_t item) const {
  const auto items = held(t);
  const auto found = std::find(items.begin(), items.end(), item);
  return found == items.end() ? -1 : static_cast<int>(found - items.begin());
}

int ChoiceState::slot_of_expert(int t, int32_t expert) const {
  const auto items = held(t);
  for (size_t s = 0; s < items.size(); ++s)
    if (items[s] >= 0 && program_->expert[items[s]] == expert) return static_cast<int>(s);
  return -1;
}

void ChoiceState::refresh_worst(int t) {
  const auto items = held(t);
  const double* row = program_->value_row(t);
  worst_[t] = 0;
  worst_value_[t] = std::numeric_limits<double>::infinity();
  for (size_t s = 0; s < items.size(); ++s) {
    const double own = items[s] < 0 ? 0.0 : row[items[s]];
    if (own >= worst_value_[t]) continue;
    worst_[t] = static_cast<int32_t>(s);
    worst_value_[t] = own;
  }
}

void ChoiceState::refresh_penalty(int32_t i) {
  all_penalty_[i] = full(i) ? kNever : 0.0;
  open_penalty_[i] = full(i) || tally_.load(i) == 0 ? kNever : 0.0;
}

void ChoiceState::apply(int t, int slot, int32_t item) {
  int32_t& place = choice_[at(t) + slot];
  for (const auto& [i, sign] : {std::pair{place, -1}, std::pair{item, 1}}) {
    if (i < 0) continue;
    tally_.add(*costs_, i, sign);
    utility_ += sign * program_->utility_row(t)[i];
    used_slots_[t] += sign;
    refresh_penalty(i);
  }
  place = item;
  refresh_worst(t);
}

void ChoiceState::move(int t, int slot, int32_t item) {
  log_.push_back({t, slot, choice_[at(t) + slot]});
  apply(t, slot, item);
}

void ChoiceState::undo_to(size_t mark) {
  while (log_.size() > mark) {
    const Move last = log_.back();
    log_.pop_back();
    apply(last.token, last.slot, last.before);
  }
}

int32_t ChoiceState::best_alternative(int t, int slot, bool closed_too) {
  std::vector<double>& penalty = closed_too ? all_penalty_ : open_penalty_;
  const auto items = held(t);
  const int32_t own = items[slot];
  const auto mask = [&](int32_t item) {
    const int e = program_->expert[item];
    for (int i = program_->first[e]; i < program_->first[e + 1]; ++i) penalty[i] = kNever;
  };
  for (size_t s = 0; s < items.size(); ++s)
    if (items[s] >= 0 && static_cast<int>(s) != slot) mask(items[s]);
  const double own_penalty = own >= 0 ? penalty[own] : 0.0;
  if (own >= 0) penalty[own] = kNever;
  const int best = row_best(program_->value_row(t), penalty.data(), program_->stride);
  int32_t found = penalty[best] == 0.0 ? best : kNone;
  const bool emptying = own >= 0 && may_empty(t);
  if (emptying && (found == kNone || program_->value_row(t)[found] < 0.0)) found = kEmpty;
  if (own >= 0) penalty[own] = own_penalty;
  for (size_t s = 0; s < items.size(); ++s) {
    if (items[s] < 0 || static_cast<int>(s) == slot) continue;
    const int e = program_->expert[items[s]];
    for (int i = program_->first[e]; i < program_->first[e + 1]; ++i) refresh_penalty(i);
  }
  return found;
}

}  // namespace thermoe
