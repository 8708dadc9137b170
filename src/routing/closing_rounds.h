// Which instances to open, found by closing experts in rounds: what the GPU can do in the time that
// decoding allows (kernels/cuda/routing_rounds.cuh does the same, bit for bit).
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "routing/program.h"

namespace thermoe {

// Every token holds the k open experts worth most to it, each counted in the instance that suits
// the token best, and knows the next. At first the union of the tokens' own best is open. In a
// round each expert's gain is what its cheapest use costs beyond what its holders would lose by
// falling back to their next, what opens at no price being open with any instance; of those it
// holds, and its next, a token lets only the expert that gains most close. So closings of one round
// concern different tokens, all gains are exact, and the tokens' order means nothing. Ends where no
// closing gains; then each open expert opens the instance best for its holders together. Needs
// programs without empty slots. Keeps its storage.
class ClosingRounds {
 public:
  // Flags [I]. own_best as for OpenSet::start, for several instances an expert too.
  std::span<const uint8_t> run(const Program& program, std::span<const int32_t> own_best);
  int closings() const { return closings_; }
  int rounds() const { return rounds_; }

 private:
  static constexpr int32_t kNone = -1;

  void start(const Program& program, std::span<const int32_t> own_best);
  void select_own_best(int t);
  void find_next(int t);
  void add_holder(const Program& program, int t, int e);
  void add_fallback(int t, double sign);
  bool close_some(const Program& program);
  void vote(int t);
  void leave(const Program& program, int t);
  int best_instance(const Program& program, int e) const;
  bool before(int32_t a, int32_t b) const;
  int32_t* held(int t) { return held_.data() + static_cast<size_t>(t) * k_; }
  const double* worth(int t) const { return worth_.data() + static_cast<size_t>(t) * stride_; }

  size_t k_ = 0, stride_ = 0;
  int experts_ = 0, closings_ = 0, rounds_ = 0;
  std::vector<double> worth_;     // [T, stride] of each expert in its best instance
  std::vector<int32_t> held_;     // [T, k]
  std::vector<int32_t> next_;     // [T] kNone: nothing else is open
  std::vector<double> lack_;      // [I] open less what its expert gives the holders by i
  std::vector<double> fallback_;  // [E] what its holders' next are worth
  std::vector<uint32_t> rank_;    // [E] of the gain; 0: closing does not gain
  std::vector<uint8_t> open_, vetoed_, is_fixed_;  // [E] fixed: a holder has no next
  std::vector<uint8_t> flags_;                     // [I]
  std::vector<double> penalty_;                    // [stride] 0 where open, else kNever
};

}  // namespace thermoe
