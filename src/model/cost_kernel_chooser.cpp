#include "thermoe/cost_kernel_chooser.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "thermoe/error.h"

namespace thermoe {
namespace {

// Experts that have a token, of tokens that each choose k of them evenly.
double expected_distinct(double tokens, int k, int experts) {
  const double all = experts;
  return all * (1 - std::pow(1 - k / all, tokens));
}

std::vector<std::string> all_names() {
  std::vector<std::string> names;
  names.reserve(kExpertKernels);
  for (const ExpertKernel kernel : kAllExpertKernels) names.push_back(profile_name(kernel));
  return names;
}

std::array<bool, kPrecisions> precisions_of(const ExpertWork& work) {
  return {work.bf16, work.int8, work.int4, work.fp8};
}

}  // namespace

std::string profile_name(ExpertKernel kernel) {
  return fmt::format("thermoe_{}_cold", name_of(kernel));
}

CostKernelChooser::CostKernelChooser(const std::filesystem::path& profile_file,
                                     const CostShape& shape)
    : shape_(shape) {
  constexpr std::array<const char*, kPrecisions> kTypes = {"bf16", "int8", "int4", "fp8"};
  const std::vector<std::string> names = all_names();
  for (size_t p = 0; p < kTypes.size(); ++p) {
    try {
      rankings_[p].emplace(profile_file, shape, kTypes[p], names);
    } catch (const ProfileMiss&) {
      if (p == 0) throw;  // of the others some profiles know nothing
    }
  }
  if (rankings_[0]->unknown().size() + 1 >= names.size())
    throw ProfileMiss(
        fmt::format("{}: measured only one kernel of the experts: measure the others "
                    "with thermoe calibrate --device cuda --all-kernels",
                    profile_file.string()));
}

const KernelRanking* CostKernelChooser::ranking(int precision) const {
  const auto& known = rankings_[static_cast<size_t>(precision)];
  return known ? &*known : nullptr;
}

std::vector<PredictedKernel> CostKernelChooser::predict(const ExpertWork& work,
                                                        const ExpertKernelSet& able) const {
  std::optional<HardwareState> state;
  {
    const std::lock_guard lock(mutex_);
    state = state_;
  }
  const auto tokens = static_cast<double>(work.tokens);
  const MoeWork layer{tokens, expected_distinct(tokens, work.k, shape_.experts), tokens * work.k};
  std::map<ExpertKernel, CostEstimate> sums;
  std::map<ExpertKernel, int> counts;
  int wanted = 0;
  const auto precisions = precisions_of(work);
  for (int p = 0; p < kPrecisions; ++p) {
    if (!precisions[static_cast<size_t>(p)]) continue;
    ++wanted;
    if (ranking(p) == nullptr) continue;
    for (const RankedKernel& ranked : ranking(p)->rank(layer, state ? &*state : nullptr))
      for (const ExpertKernel kernel : kAllExpertKernels)
        if (able.has(kernel) && profile_name(kernel) == ranked.kernel) {
          add(sums[kernel], ranked.cost);
          ++counts[kernel];
        }
  }
  std::vector<PredictedKernel> predicted;
  for (auto& [kernel, cost] : sums) {
    if (counts[kernel] < wanted) continue;  // some precision was not measured
    cost.latency_us /= wanted;
    cost.energy_mj /= wanted;
    cost.bytes /= wanted;
    cost.flops /= wanted;
    predicted.push_back({kernel, cost});
  }
  std::stable_sort(predicted.begin(), predicted.end(), [](const auto& a, const auto& b) {
    return a.cost.latency_us < b.cost.latency_us;
  });
  return predicted;
}

ExpertKernel CostKernelChooser::choose(const ExpertWork& work, const ExpertKernelSet& able) const {
  const std::vector<PredictedKernel> predicted = predict(work, able);
  if (predicted.empty()) return ThresholdChooser().choose(work, able);
  const Key key(work.tokens, work.k, work.instances, work.bf16, work.int8, work.int4, work.fp8);
  const std::lock_guard lock(mutex_);
  const auto [last, first_time] = last_.try_emplace(key, predicted.front().kernel);
  if (first_time) return last->second;
  const double best_us = predicted.front().cost.latency_us;
  for (const PredictedKernel& now : predicted)
    if (now.kernel == last->second && now.cost.latency_us <= best_us * (1 + kWorthFrac))
      return last->second;
  return last->second = predicted.front().kernel;
}

void CostKernelChooser::set_state(const HardwareState& state) {
  const std::lock_guard lock(mutex_);
  state_ = state;
}

}  // namespace thermoe
