#include "routing/dual_bound.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <limits>

namespace thermoe {
namespace {

constexpr double kLargestTheta = kLargestUtility;

}  // namespace

void DualBound::start(const Program& program, const OpenSet& primal) {
  const size_t tokens = static_cast<size_t>(program.tokens);
  const size_t experts = static_cast<size_t>(program.experts);
  current_.theta.resize(tokens);
  kept_.theta.resize(tokens);
  slope_.resize(tokens);
  penalty_.resize(static_cast<size_t>(program.stride));
  if (program.single) {
    current_.value.resize(static_cast<size_t>(program.stride));
  } else {
    expert_at_.resize(experts + 1);
    expert_at_[0] = 0;
    for (int e = 0; e < program.experts; ++e)
      expert_at_[e + 1] = expert_at_[e] + (1 << (program.first[e + 1] - program.first[e]));
    current_.value.resize(static_cast<size_t>(expert_at_[experts]));
    subset_.resize(experts);
  }
  kept_.value.resize(current_.value.size());
  best_ = std::numeric_limits<double>::infinity();
  for (int t = 0; t < program.tokens; ++t) {
    const double least = primal.least_value(t), next = primal.next_value(t);
    current_.theta[t] = to_grid(next == kNever ? least : 0.5 * (least + next));
  }
  if (program.single) start_compact(program, primal);
  keep_if_best(evaluate(program));
}

// The floor leaves theta twice the room below that it has above, and a little.
void DualBound::start_compact(const Program& program, const OpenSet& primal) {
  constexpr double kLeastRoom = 0x1p-8;  // in units of utility
  const size_t tokens = static_cast<size_t>(program.tokens);
  floor_.resize(tokens);
  room_.resize(tokens);
  entries_.resize(tokens);
  entry_.resize(tokens * static_cast<size_t>(program.stride));
  entry_value_.resize(entry_.size());
  for (int t = 0; t < program.tokens; ++t) {
    const double theta = current_.theta[t];
    room_[t] = to_grid(2.0 * (primal.least_value(t) - theta) + kLeastRoom);
    floor_[t] = theta - room_[t];
    compact(program, t);
  }
}

void DualBound::compact(const Program& program, int t) {
  const size_t at = static_cast<size_t>(t) * static_cast<size_t>(program.stride);
  entries_[t] = compact_above(program.value_row(t), floor_[t], program.stride, entry_.data() + at,
                              entry_value_.data() + at);
}

void DualBound::lower_floors(const Program& program) {
  for (int t = 0; t < program.tokens; ++t) {
    if (current_.theta[t] >= floor_[t]) continue;
    room_[t] = 4.0 * room_[t] + (floor_[t] - current_.theta[t]);
    floor_[t] -= room_[t];
    compact(program, t);
  }
}

double DualBound::evaluate_compact(const Program& program) {
  double bound = 0;
  double* surplus = current_.value.data();
  for (int i = 0; i < program.stride; ++i) surplus[i] = -program.open[i];
  for (int t = 0; t < program.tokens; ++t) {
    const double theta = current_.theta[t];
    bound += program.k * theta + program.empty_slots() * std::max(0.0, -theta);
    const size_t at = static_cast<size_t>(t) * static_cast<size_t>(program.stride);
    for (size_t n = at; n < at + entries_[t]; ++n)
      surplus[entry_[n]] += std::max(0.0, entry_value_[n] - theta);
  }
  for (int i = 0; i < program.instances; ++i) bound += std::max(0.0, surplus[i]);
  return bound;
}

double DualBound::compact_slope_norm_squared(const Program& program) {
  const double* surplus = current_.value.data();
  double norm_squared = 0;
  for (int t = 0; t < program.tokens; ++t) {
    const double theta = current_.theta[t];
    int count = theta < 0.0 ? program.empty_slots() : 0;
    const size_t at = static_cast<size_t>(t) * static_cast<size_t>(program.stride);
    for (size_t n = at; n < at + entries_[t]; ++n)
      count +=
          static_cast<int>(surplus[entry_[n]] > 0.0) & static_cast<int>(entry_value_[n] > theta);
    slope_[t] = program.k - count;
    norm_squared += slope_[t] * slope_[t];
  }
  return norm_squared;
}

void DualBound::keep_if_best(double bound) {
  if (bound >= best_) return;
  best_ = bound;
  kept_.theta = current_.theta;
  kept_.value = current_.value;
}

double DualBound::improve(const Program& program, double target, int iterations, double gap_frac) {
  current_.theta = kept_.theta;
  if (iterations == 0) return best_;
  const bool compacted = program.single;
  double bound = compacted ? evaluate_compact(program) : evaluate(program);
  for (int i = 0; i < iterations; ++i) {
    if (best_ - target <= gap_frac * std::abs(best_)) break;
    const double norm_squared =
        compacted ? compact_slope_norm_squared(program) : slope_norm_squared(program);
    if (norm_squared == 0.0) break;  // theta is optimal: no step improves the bound
    step((bound - target) / norm_squared);
    if (compacted) lower_floors(program);
    bound = compacted ? evaluate_compact(program) : evaluate(program);
    keep_if_best(bound);
  }
  return best_;
}

double DualBound::evaluate(const Program& program) {
  double bound = 0;
  for (const double theta : current_.theta)
    bound += program.k * theta + program.empty_slots() * std::max(0.0, -theta);
  if (!program.single) return bound + evaluate_groups(program);
  for (int i = 0; i < program.stride; ++i) current_.value[i] = -program.open[i];
  add_excess(program.values(), current_.theta.data(), program.tokens, program.stride,
             current_.value.data());
  for (int i = 0; i < program.instances; ++i) bound += std::max(0.0, current_.value[i]);
  return bound;
}

// sum_t max(0, ...) of a subset is built from that of the subset without its lowest instance.
double DualBound::evaluate_groups(const Program& program) {
  double bound = 0;
  double excess[256];  // 2^kMaxInstances
  for (int e = 0; e < program.experts; ++e) {
    const int first = program.first[e], count = program.first[e + 1] - first;
    double* terms = current_.value.data() + expert_at_[e];
    const uint32_t subsets = 1u << count;
    excess[0] = terms[0] = 0;
    for (uint32_t s = 1; s < subsets; ++s)
      terms[s] = terms[s & (s - 1)] - program.open[first + std::countr_zero(s)];
    for (int t = 0; t < program.tokens; ++t) {
      const double* value = program.value_row(t) + first;
      const double theta = current_.theta[t];
      for (uint32_t s = 1; s < subsets; ++s) {
        excess[s] = std::max(excess[s & (s - 1)], value[std::countr_zero(s)] - theta);
        terms[s] += excess[s];
      }
    }
    subset_[e] = static_cast<uint32_t>(std::max_element(terms, terms + subsets) - terms);
    bound += terms[subset_[e]];
  }
  return bound;
}

// How many experts token t would take at theta, out of those that pay.
int DualBound::taken(const Program& program, int t) const {
  const double* value = program.value_row(t);
  const double theta = current_.theta[t];
  int count = theta < 0.0 ? program.empty_slots() : 0;
  if (program.single) return count + count_above(value, penalty_.data(), theta, program.stride);
  for (int e = 0; e < program.experts; ++e)
    for (uint32_t s = subset_[e]; s != 0; s &= s - 1)
      if (value[program.first[e] + std::countr_zero(s)] > theta) {
        ++count;
        break;
      }
  return count;
}

// d bound / d theta[t] = k - (number of paying experts, or empty slots, that t takes at theta).
double DualBound::slope_norm_squared(const Program& program) {
  if (program.single)
    for (int i = 0; i < program.stride; ++i) penalty_[i] = current_.value[i] > 0.0 ? 0.0 : kNever;
  double norm_squared = 0;
  for (int t = 0; t < program.tokens; ++t) {
    slope_[t] = program.k - taken(program, t);
    norm_squared += slope_[t] * slope_[t];
  }
  return norm_squared;
}

void DualBound::step(double length) {
  for (size_t t = 0; t < current_.theta.size(); ++t)
    current_.theta[t] =
        to_grid(std::clamp(current_.theta[t] - length * slope_[t], -kLargestTheta, kLargestTheta));
}

void DualBound::usage(const Program& program, std::vector<int32_t>& loads,
                      std::vector<uint8_t>& uses) const {
  loads.assign(static_cast<size_t>(program.instances), 0);
  uses.assign(static_cast<size_t>(program.instances), 0);
  for (int e = 0; e < program.experts; ++e) {
    const int first = program.first[e];
    const uint32_t subset = program.single ? (current_.value[e] > 0.0 ? 1u : 0u) : subset_[e];
    for (uint32_t s = subset; s != 0; s &= s - 1) uses[first + std::countr_zero(s)] = 1;
    if (subset == 0) continue;
    for (int t = 0; t < program.tokens; ++t) {
      const double* value = program.value_row(t) + first;
      int best = std::countr_zero(subset);
      for (uint32_t s = subset & (subset - 1); s != 0; s &= s - 1)
        if (const int j = std::countr_zero(s); value[j] > value[best]) best = j;
      loads[first + best] += value[best] > current_.theta[t];
    }
  }
}

std::span<const double> DualBound::terms(const Program& program, int expert) const {
  if (program.single) return {kept_.value.data() + expert, 1};
  return {kept_.value.data() + expert_at_[expert],
          static_cast<size_t>(expert_at_[expert + 1] - expert_at_[expert])};
}

uint32_t DualBound::best_subset(const Program& program, int expert) const {
  const std::span<const double> values = terms(program, expert);
  if (program.single) return values[0] > 0.0 ? 1 : 0;
  return static_cast<uint32_t>(std::max_element(values.begin(), values.end()) - values.begin());
}

}  // namespace thermoe
