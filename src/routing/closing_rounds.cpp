#include "routing/closing_rounds.h"

#include <algorithm>
#include <bit>

namespace thermoe {
namespace {

// Gains are compared by the upper bits of their float, so that a GPU's warp can compare them
// together with the expert in one word; experts with equal ranks by lower number.
uint32_t rank_of_gain(double gain) {
  return gain > 0.0 ? std::bit_cast<uint32_t>(static_cast<float>(gain)) >> 8 : 0;
}

}  // namespace

void ClosingRounds::start(const Program& program, std::span<const int32_t> own_best) {
  k_ = static_cast<size_t>(program.k);
  experts_ = program.experts;
  stride_ = static_cast<size_t>(padded_row(experts_));
  const size_t tokens = static_cast<size_t>(program.tokens), count = static_cast<size_t>(experts_);
  worth_.assign(tokens * stride_, kNever);
  held_.resize(tokens * k_);
  next_.resize(tokens);
  lack_.assign(program.open.begin(), program.open.begin() + program.instances);
  fallback_.assign(count, 0.0);
  is_fixed_.assign(count, 0);
  rank_.resize(count);
  open_.assign(count, 0);
  vetoed_.resize(count);
  penalty_.assign(stride_, kNever);
  closings_ = rounds_ = 0;
  for (int t = 0; t < program.tokens; ++t) {
    double* to = worth_.data() + static_cast<size_t>(t) * stride_;
    for (int i = 0; i < program.instances; ++i)
      to[program.expert[i]] = std::max(to[program.expert[i]], program.value_row(t)[i]);
    if (own_best.empty())
      select_own_best(t);
    else
      std::copy_n(own_best.data() + static_cast<size_t>(t) * k_, k_, held(t));
    for (size_t s = 0; s < k_; ++s) open_[held(t)[s]] = 1;
  }
  for (int e = 0; e < experts_; ++e) penalty_[e] = open_[e] ? 0.0 : kNever;
  for (int t = 0; t < program.tokens; ++t) {
    for (size_t s = 0; s < k_; ++s) add_holder(program, t, held(t)[s]);
    find_next(t);
    add_fallback(t, 1.0);
  }
}

// By falling worth, ties by lower expert.
void ClosingRounds::select_own_best(int t) {
  const double* value = worth(t);
  int32_t* out = held(t);
  size_t count = 0;
  for (int e = 0; e < experts_; ++e) {
    if (count == k_ && value[e] <= value[out[k_ - 1]]) continue;
    size_t slot = count < k_ ? count++ : k_ - 1;
    for (; slot > 0 && value[e] > value[out[slot - 1]]; --slot) out[slot] = out[slot - 1];
    out[slot] = e;
  }
}

void ClosingRounds::find_next(int t) {
  for (size_t s = 0; s < k_; ++s) penalty_[held(t)[s]] = kNever;
  const int best = row_best(worth(t), penalty_.data(), static_cast<int>(stride_));
  next_[t] = penalty_[best] == 0.0 ? best : kNone;
  for (size_t s = 0; s < k_; ++s) penalty_[held(t)[s]] = 0.0;
}

// The token has come to hold e, in any of its instances or in one that opens at no price.
void ClosingRounds::add_holder(const Program& program, int t, int e) {
  const double* value = program.value_row(t);
  double free = kNever;
  for (int i = program.first[e]; i < program.first[e + 1]; ++i)
    if (!program.single && program.open[i] == 0.0) free = std::max(free, value[i]);
  for (int i = program.first[e]; i < program.first[e + 1]; ++i)
    lack_[i] -= std::max(free, value[i]);
}

// The token's part of the fallbacks; sign -1 takes it back.
void ClosingRounds::add_fallback(int t, double sign) {
  for (size_t s = 0; s < k_; ++s) {
    if (next_[t] == kNone)
      is_fixed_[held(t)[s]] = 1;
    else
      fallback_[held(t)[s]] += sign * worth(t)[next_[t]];
  }
}

int ClosingRounds::best_instance(const Program& program, int e) const {
  const auto begin = lack_.begin() + program.first[e], end = lack_.begin() + program.first[e + 1];
  return static_cast<int>(std::min_element(begin, end) - lack_.begin());
}

bool ClosingRounds::before(int32_t a, int32_t b) const {
  return rank_[a] != rank_[b] ? rank_[a] > rank_[b] : a < b;
}

void ClosingRounds::vote(int t) {
  int32_t best = next_[t] == kNone ? held(t)[0] : next_[t];
  for (size_t s = 0; s < k_; ++s)
    if (before(held(t)[s], best)) best = held(t)[s];
  for (size_t s = 0; s < k_; ++s)
    if (held(t)[s] != best) vetoed_[held(t)[s]] = 1;
  if (next_[t] != kNone && next_[t] != best) vetoed_[next_[t]] = 1;
}

// After closings of which one at most was held or next.
void ClosingRounds::leave(const Program& program, int t) {
  int32_t* begin = held(t);
  int32_t* closed = std::find_if(begin, begin + k_, [this](int32_t e) { return !open_[e]; });
  if (closed == begin + k_ && (next_[t] == kNone || open_[next_[t]])) return;
  add_fallback(t, -1.0);
  if (closed != begin + k_) add_holder(program, t, *closed = next_[t]);
  find_next(t);
  add_fallback(t, 1.0);
}

bool ClosingRounds::close_some(const Program& program) {
  for (int e = 0; e < experts_; ++e) {
    const double gain = lack_[best_instance(program, e)] + fallback_[e];
    rank_[e] = open_[e] && !is_fixed_[e] ? rank_of_gain(gain) : 0;
  }
  std::fill(vetoed_.begin(), vetoed_.end(), uint8_t{0});
  for (int t = 0; t < program.tokens; ++t) vote(t);
  int count = 0;
  for (int e = 0; e < experts_; ++e) {
    if (rank_[e] == 0 || vetoed_[e]) continue;
    open_[e] = 0;
    penalty_[e] = kNever;
    ++count;
  }
  if (count == 0) return false;
  closings_ += count;
  ++rounds_;
  for (int t = 0; t < program.tokens; ++t) leave(program, t);
  return true;
}

std::span<const uint8_t> ClosingRounds::run(const Program& program,
                                            std::span<const int32_t> own_best) {
  start(program, own_best);
  while (close_some(program)) {
  }
  flags_.assign(static_cast<size_t>(program.instances), 0);
  for (int e = 0; e < experts_; ++e) {
    if (!open_[e]) continue;
    for (int i = program.first[e]; i < program.first[e + 1]; ++i)
      flags_[i] = program.open[i] == 0.0;
    flags_[best_instance(program, e)] = 1;
  }
  return flags_;
}

}  // namespace thermoe
