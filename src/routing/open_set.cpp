#include "routing/open_set.h"

#include <algorithm>

namespace thermoe {

void OpenSet::start(const Program& program, std::span<const int32_t> own_best) {
  program_ = &program;
  k_ = static_cast<size_t>(program.k);
  const size_t tokens = static_cast<size_t>(program.tokens);
  const size_t stride = static_cast<size_t>(program.stride);
  open_.assign(static_cast<size_t>(program.instances), 0);
  open_of_.assign(static_cast<size_t>(program.experts), 0);
  penalty_.assign(stride, kNever);
  loss_.assign(stride, 0.0);
  held_.resize(tokens * k_);
  held_value_.resize(tokens * k_);
  alternative_.resize(tokens * k_);
  least_.resize(tokens);
  next_.resize(tokens);
  transpose_values();
  next_value_.assign(height_, kNever);
  least_value_.assign(height_, kNever);
  touched_.resize(height_);
  value_sum_ = open_sum_ = 0;
  open_experts_ = 0;
  for (int t = 0; t < program.tokens; ++t) {
    if (own_best.empty()) {
      select_own_best(t);
    } else {
      for (size_t s = 0; s < k_; ++s)
        replace(t, static_cast<int>(s), own_best[at(t) + s],
                program.value_row(t)[own_best[at(t) + s]]);
    }
    for (const int32_t i : held(t))
      if (i >= 0) open_[i] = 1;
  }
  for (int i = 0; i < program.instances; ++i) {
    if (!open_[i]) continue;
    penalty_[i] = 0.0;
    open_sum_ += program.open[i];
    if (open_of_[program.expert[i]]++ == 0) ++open_experts_;
  }
  for (int t = 0; t < program.tokens; ++t) {
    find_next(t);
    settle(t);
  }
}

// In tiles, for the cache. Below the tokens each column is padded with less than any threshold.
void OpenSet::transpose_values() {
  const Program& p = *program_;
  constexpr int kTile = 8;
  height_ = static_cast<size_t>(padded_row(p.tokens));
  columns_.resize(static_cast<size_t>(p.stride) * height_);
  const int height = static_cast<int>(height_);
  for (int t = 0; t < height; t += kTile)
    for (int i = 0; i < p.stride; i += kTile)
      for (int row = t; row < t + kTile; ++row) {
        const double* from = row < p.tokens ? p.value_row(row) : nullptr;
        for (int col = i; col < i + kTile; ++col)
          columns_[static_cast<size_t>(col) * height_ + row] = from ? from[col] : 2 * kNever;
      }
}

// Insertion into a short sorted list: most items are turned away by the first comparison.
void OpenSet::select_own_best(int t) {
  const Program& p = *program_;
  const double* value = p.value_row(t);
  row_.resize(k_);
  size_t count = 0;
  for (int e = 0; e < p.experts; ++e) {
    int32_t best = p.first[e];
    for (int i = best + 1; i < p.first[e + 1]; ++i)
      if (value[i] > value[best]) best = i;
    const double own = value[best];
    if (count == k_ && own <= row_[k_ - 1].first) continue;
    size_t slot = count < k_ ? count++ : k_ - 1;
    for (; slot > 0 && own > row_[slot - 1].first; --slot) row_[slot] = row_[slot - 1];
    row_[slot] = {own, best};
  }
  for (size_t s = 0; s < k_; ++s) {
    const bool empty = s >= static_cast<size_t>(p.min_k) && row_[s].first < 0.0;
    replace(t, static_cast<int>(s), empty ? kEmpty : row_[s].second, empty ? 0.0 : row_[s].first);
  }
}

void OpenSet::replace(int t, int slot, int32_t item, double value) {
  held_[at(t) + slot] = item;
  held_value_[at(t) + slot] = value;
}

// Marks every instance of the item's expert as held (kNever), or as what it is.
void OpenSet::set_penalty(int32_t item, double penalty_if_open) {
  if (item < 0) return;
  if (program_->single) {
    penalty_[item] = penalty_if_open;
    return;
  }
  const int e = program_->expert[item];
  for (int i = program_->first[e]; i < program_->first[e + 1]; ++i)
    penalty_[i] = open_[i] ? penalty_if_open : kNever;
}

void OpenSet::find_next(int t) {
  const double* value = program_->value_row(t);
  int empty = 0;
  for (const int32_t i : held(t)) {
    set_penalty(i, kNever);
    empty += i == kEmpty;
  }
  const int best = row_best(value, penalty_.data(), program_->stride);
  next_[t] = penalty_[best] == 0.0 ? best : kNone;
  next_value_[t] = next_[t] == kNone ? kNever : value[best];
  if (empty < program_->empty_slots() && next_value_[t] < 0.0) {
    next_[t] = kEmpty;
    next_value_[t] = 0.0;
  }
  for (const int32_t i : held(t)) set_penalty(i, 0.0);
}

int32_t OpenSet::best_sibling(int t, int32_t i) const {
  const double* value = program_->value_row(t);
  const int e = program_->expert[i];
  int32_t best = kNone;
  for (int j = program_->first[e]; j < program_->first[e + 1]; ++j)
    if (j != i && open_[j] && (best == kNone || value[j] > value[best])) best = j;
  return best;
}

void OpenSet::take_back(int t) {
  for (size_t s = at(t); s < at(t) + k_; ++s) {
    value_sum_ -= held_value_[s];
    if (held_[s] >= 0 && alternative_[s] != kNever)
      loss_[held_[s]] -= held_value_[s] - alternative_[s];
  }
}

void OpenSet::settle(int t) {
  const size_t begin = at(t);
  const double next = next_value_[t];
  size_t least = 0;
  for (size_t s = 0; s < k_; ++s) {
    const double value = held_value_[begin + s];
    value_sum_ += value;
    if (value < held_value_[begin + least]) least = s;
    const int32_t i = held_[begin + s];
    if (i < 0) continue;
    double alternative = next;
    if (!program_->single)
      if (const int32_t sibling = best_sibling(t, i); sibling != kNone)
        alternative = std::max(alternative, program_->value_row(t)[sibling]);
    alternative_[begin + s] = alternative;
    if (alternative != kNever) loss_[i] += value - alternative;
  }
  least_[t] = static_cast<int32_t>(least);
  least_value_[t] = held_value_[begin + least];
}

bool OpenSet::can_close(int i) const {
  return open_[i] && (open_experts_ > program_->min_k || open_of_[program_->expert[i]] > 1);
}

int OpenSet::slot_of(int t, int32_t item) const {
  const int32_t* begin = held_.data() + at(t);
  for (size_t s = 0; s < k_; ++s)
    if (begin[s] == item) return static_cast<int>(s);
  return -1;
}

int OpenSet::slot_of_expert(int t, int32_t expert) const {
  const int32_t* begin = held_.data() + at(t);
  for (size_t s = 0; s < k_; ++s)
    if (begin[s] >= 0 && program_->expert[begin[s]] == expert) return static_cast<int>(s);
  return -1;
}

void OpenSet::close(int i) {
  const int e = program_->expert[i];
  open_[i] = 0;
  penalty_[i] = kNever;
  open_sum_ -= program_->open[i];
  if (--open_of_[e] == 0) --open_experts_;
  // Who holds i, or has it as an alternative, values it at least like the next best.
  const int count =
      find_at_least(column(i), next_value_.data(), static_cast<int>(height_), touched_.data());
  for (int n = 0; n < count; ++n) close_for(touched_[n], i);
}

void OpenSet::close_for(int t, int i) {
  const int slot = slot_of(t, i);
  // A held sibling may have had i to fall back to.
  const bool sibling_held =
      slot < 0 && !program_->single && slot_of_expert(t, program_->expert[i]) >= 0;
  if (slot < 0 && next_[t] != i && !sibling_held) return;
  take_back(t);
  if (slot >= 0) {
    const int32_t sibling = program_->single ? kNone : best_sibling(t, i);
    if (sibling != kNone && program_->value_row(t)[sibling] >= next_value(t)) {
      replace(t, slot, sibling, program_->value_row(t)[sibling]);
    } else {
      replace(t, slot, next_[t], next_value_[t]);
      find_next(t);
    }
  } else if (next_[t] == i) {
    find_next(t);
  }
  settle(t);
}

void OpenSet::open(int i) {
  open_[i] = 1;
  penalty_[i] = 0.0;
  open_sum_ += program_->open[i];
  if (open_of_[program_->expert[i]]++ == 0) ++open_experts_;
  const int count =
      find_at_least(column(i), next_value_.data(), static_cast<int>(height_), touched_.data());
  for (int n = 0; n < count; ++n) open_for(touched_[n], i);
}

void OpenSet::open_for(int t, int i) {
  const double value = program_->value_row(t)[i];
  if (!program_->single) {
    if (const int slot = slot_of_expert(t, program_->expert[i]); slot >= 0) {
      take_back(t);
      if (value > held_value_[at(t) + slot]) replace(t, slot, i, value);
      settle(t);
      return;
    }
  }
  const int slot = least_[t];
  const double least = held_value_[at(t) + slot];
  if (value > least) {
    take_back(t);
    next_[t] = held_[at(t) + slot];
    next_value_[t] = least;
    replace(t, slot, i, value);
    settle(t);
  } else if (value > next_value(t)) {
    take_back(t);
    next_[t] = i;
    next_value_[t] = value;
    settle(t);
  }
}

void OpenSet::go_to(std::span<const uint8_t> target) {
  for (int i = 0; i < program_->instances; ++i)
    if (target[i] && !open_[i]) open(i);
  for (int i = 0; i < program_->instances; ++i)
    if (!target[i] && open_[i]) close(i);
}

double OpenSet::opening_gain(int i) const {
  const double* value = column(i);
  double gain = -program_->open[i];
  for (int t = 0; t < program_->tokens; ++t) gain += std::max(0.0, value[t] - least_value_[t]);
  return gain;
}

void OpenSet::opening_gains(std::vector<double>& gains) const {
  const Program& p = *program_;
  gains.assign(static_cast<size_t>(p.stride), 0.0);
  add_excess(p.values(), least_value_.data(), p.tokens, p.stride, gains.data());
  if (p.single) return;
  // A token that holds the expert compares with the instance it holds.
  for (int t = 0; t < p.tokens; ++t) {
    const double* value = p.value_row(t);
    for (size_t s = at(t); s < at(t) + k_; ++s) {
      if (held_[s] < 0) continue;
      const int e = p.expert[held_[s]];
      for (int i = p.first[e]; i < p.first[e + 1]; ++i)
        gains[i] +=
            std::max(0.0, value[i] - held_value_[s]) - std::max(0.0, value[i] - least_value_[t]);
    }
  }
}

void OpenSet::swap_gains(int closing, std::span<const double> base,
                         std::vector<double>& gains) const {
  const Program& p = *program_;
  gains.resize(static_cast<size_t>(p.stride));
  for (int i = 0; i < p.stride; ++i) gains[i] = base[i] - p.open[i];
  double lost = p.open[closing];
  for (int t = 0; t < p.tokens; ++t) {
    const int slot = slot_of(t, closing);
    if (slot < 0) continue;
    lost -= held_value_[at(t) + slot];
    add_swap(p.value_row(t), next_value(t), least_value(t), p.stride, gains.data());
  }
  for (int i = 0; i < p.stride; ++i) gains[i] += lost;
}

}  // namespace thermoe
