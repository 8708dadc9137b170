// KernelRanking: which of several measured implementations of a layer's experts costs least.
#pragma once

#include <filesystem>
#include <span>
#include <string>
#include <vector>

#include "thermoe/kernel_cost_model.h"

namespace thermoe {

struct RankedKernel {
  std::string kernel;  // as the profile names it
  CostEstimate cost;
};

// One shape and type of weights, several kernels. Constant to its users; all const calls may run on
// any thread.
class KernelRanking {
 public:
  // Those of `kernels` that the profile has measured of that type. Throws IoError as
  // KernelCostModel; ProfileMiss where it has none of them, listing what it has.
  KernelRanking(const std::filesystem::path& profile_file, const CostShape& shape,
                const std::string& dtype, std::span<const std::string> kernels);

  // All of them, the fastest first, ties in the order in which they were given. With a state, at
  // its SM clock and temperature. Throws as KernelCostModel::moe_layer().
  std::vector<RankedKernel> rank(const MoeWork& work, const HardwareState* state = nullptr) const;
  // Those that the profile knows nothing of.
  const std::vector<std::string>& unknown() const { return unknown_; }

 private:
  std::vector<std::string> names_, unknown_;
  std::vector<KernelCostModel> models_;
};

}  // namespace thermoe
