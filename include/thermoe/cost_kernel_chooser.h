// CostKernelChooser: the experts' kernel on a GPU that the cost model says is the fastest.
#pragma once

#include <array>
#include <filesystem>
#include <map>
#include <mutex>
#include <optional>
#include <string>
#include <tuple>
#include <vector>

#include "thermoe/expert_kernels.h"
#include "thermoe/kernel_ranking.h"
#include "thermoe/moe_layer.h"

namespace thermoe {

// As the profiles of thermoe calibrate name a kernel with weights from memory.
std::string profile_name(ExpertKernel kernel);

struct PredictedKernel {
  ExpertKernel kernel = ExpertKernel::kCudaDecode;
  CostEstimate cost;
};

// Of a layer whose tokens choose evenly among its experts. Where several precisions are about, a
// kernel is charged the mean of what it would take with each alone. Threads may share it.
class CostKernelChooser : public ExpertKernelChooser {
 public:
  // A change of mind costs a capture of the step, and must be worth this much of the latency.
  static constexpr double kWorthFrac = 0.03;

  // `shape`: of the model's layers. `profile_file`: of the device at hand, by thermoe calibrate
  // --all-kernels. Throws as KernelRanking; ProfileMiss where it measured only one of the kernels.
  CostKernelChooser(const std::filesystem::path& profile_file, const CostShape& shape);

  // What the profile has not measured is not chosen; of what it has, by thresholds where none of
  // `able` is.
  ExpertKernel choose(const ExpertWork& work, const ExpertKernelSet& able) const override;
  // The fastest first.
  std::vector<PredictedKernel> predict(const ExpertWork& work, const ExpertKernelSet& able) const;
  // From now on at this state's clock and temperature.
  void set_state(const HardwareState& state);

 private:
  using Key = std::tuple<int64_t, int, int, bool, bool, bool, bool>;  // of a work
  const KernelRanking* ranking(int precision) const;

  CostShape shape_;
  std::array<std::optional<KernelRanking>, kPrecisions> rankings_;
  mutable std::mutex mutex_;  // of what follows
  std::optional<HardwareState> state_;
  mutable std::map<Key, ExpertKernel> last_;
};

}  // namespace thermoe
