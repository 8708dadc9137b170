// The drop rule: closes experts one at a time while a closing pays.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <vector>

namespace thermoe {

// Utilities and prices are fixed-point numbers of kFixedOne to the unit: sums are then exact, hence
// independent of the order of the tokens, and so is every decision.
inline constexpr int kFixedBits = 40;
inline constexpr int64_t kFixedOne = int64_t{1} << kFixedBits;
int64_t to_fixed(double value);  // saturates at +-2^20 units: far above any batch's utility
inline double from_fixed(int64_t value) {
  return static_cast<double>(value) / static_cast<double>(kFixedOne);
}

// One batch's program. Row-major [T, E]; a plan may be chosen from all E experts.
struct FixedProgram {
  int tokens = 0, experts = 0, k = 0;
  std::vector<int64_t> value;    // [T, E] utility minus slope price
  std::vector<int64_t> utility;  // [T, E]
  std::vector<int64_t> open;     // [E] opening prices

  const int64_t* value_row(int t) const { return value.data() + index(t); }
  const int64_t* utility_row(int t) const { return utility.data() + index(t); }

 private:
  size_t index(int t) const { return static_cast<size_t>(t) * static_cast<size_t>(experts); }
};

// Greedy descent from the union of the tokens' own best k: closes the expert whose closing gains
// most (opening price saved minus value that its users lose by moving to their best open
// alternative), as long as that gain is positive, k experts stay open, and the batch's utility
// stays at or above `least_utility`. Ties by lower id. Keeps its storage between calls.
class DropRule {
 public:
  void run(const FixedProgram& program, std::optional<int64_t> least_utility);

  // The k experts of token t, unordered.
  std::span<const int32_t> experts_of(int t) const {
    return {chosen_.data() + static_cast<size_t>(t) * k_, k_};
  }
  bool is_open(int expert) const { return open_[static_cast<size_t>(expert)] != 0; }
  int open_count() const { return open_count_; }
  // What the plan is worth in `program` (whose prices may differ from those it was made with).
  int64_t objective(const FixedProgram& program) const;
  int64_t utility() const { return utility_; }
  // The value that token t would move to next, if another expert is open beyond its k.
  std::optional<int64_t> next_value(const FixedProgram& program, int t) const;

 private:
  void start(const FixedProgram& program);
  void sort_open_experts(const FixedProgram& program);
  int32_t next_of(int t) const;
  void advance(int t);
  void add_costs(const FixedProgram& program, int t, int64_t sign);
  int best_to_close(const FixedProgram& program, std::optional<int64_t> least_utility) const;
  void close(const FixedProgram& program, int32_t expert);

  size_t k_ = 0;
  std::vector<int32_t> chosen_;  // [T, k]
  std::vector<uint8_t> open_;    // [E]
  std::vector<int32_t> order_;   // [T, order_width_] initially open experts by falling value
  std::vector<int32_t> next_;    // [T] index into the token's order of its best alternative
  std::vector<int64_t> value_cost_, utility_cost_;  // [E] what the users lose if it closes
  int order_width_ = 0, open_count_ = 0;
  int64_t utility_ = 0;
};

}  // namespace thermoe
