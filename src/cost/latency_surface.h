// Latency of one MoE shape over (distinct experts, assignments), through its measured points.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

namespace thermoe::cost {

// Latencies along tokens under one distribution of the load over experts. Tokens rise strictly.
struct MeasuredLoad {
  std::vector<double> tokens;
  std::vector<double> distinct_experts;  // expected under the distribution
  std::vector<double> latency_us;
  bool last_extrapolated = false;  // the last point wasn't measured
};

struct MeasuredShape {
  int64_t hidden_size = 0, expert_inter_size = 0;
  int experts = 0, top_k = 0;
  std::vector<MeasuredLoad> loads;  // the balanced one first; it ends with all experts
};

// The measured balanced loads give two curves: few tokens, each expert with one token (latency over
// distinct experts, M(D)), and many tokens, all experts (latency over assignments, F(A)). Between
// them, D experts under A assignments behave as a share D/E of the full set at the same load:
//   latency(D, A) = M(D) + D/E * (F(A E/D) - F(A_full)),  not above F(A),
// tabulated and interpolated bilinearly: nondecreasing in both, and exact at the balanced points
// wherever these themselves don't fall as tokens rise (pooled where they do).
class LatencySurface {
 public:
  explicit LatencySurface(const MeasuredShape& shape);

  struct Reading {
    double latency_us = 0;
    bool measured = false;      // a balanced point of the table
    bool extrapolated = false;  // more assignments (per expert) than were measured
  };
  // 0 <= distinct <= experts, assignments >= 0.
  Reading at(double distinct, double assignments) const;

  // The few-token line M(D) ~ overhead + open * D, both >= 0.
  double overhead_us() const { return overhead_us_; }
  double open_us() const { return open_us_; }
  // Root mean square of the relative errors at the points of the other (skewed) loads.
  double skewed_error_frac() const { return skewed_error_frac_; }

 private:
  double few_tokens_us(double distinct) const;
  double full_us(double assignments) const;
  void tabulate(double experts);
  double node(size_t d, size_t a) const { return table_[d * assignment_knots_.size() + a]; }
  double along_assignments(size_t d, double assignments) const;
  bool is_measured(double distinct, double assignments) const;

  std::vector<double> few_distinct_, few_us_;       // M(D), from D = 0 to all experts
  std::vector<double> full_assignments_, full_us_;  // F(A), from A_full
  double last_slope_us_ = 0;                        // of F beyond its end
  std::vector<double> distinct_knots_, assignment_knots_, table_;
  std::vector<std::pair<double, double>> exact_;  // (distinct, assignments) of unpooled points
  double overhead_us_ = 0, open_us_ = 0, skewed_error_frac_ = 0;
};

}  // namespace thermoe::cost
