#include "thermoe/kernel_ranking.h"

#include <fmt/format.h>

#include <algorithm>

#include "cost/kernel_profile.h"
#include "thermoe/error.h"

namespace thermoe {
namespace {

bool has_kernel(const cost::KernelProfile& profile, const std::string& dtype,
                const std::string& name) {
  return std::any_of(
      profile.kernels.begin(), profile.kernels.end(), [&](const cost::MeasuredKernel& k) {
        return k.op == cost::Operation::kExperts && k.dtype == dtype && k.kernel == name;
      });
}

void append(std::string& list, const std::string& name) {
  if (!list.empty()) list += ", ";
  list += name;
}

std::string kernels_of(const cost::KernelProfile& profile) {
  std::string list;
  for (const cost::MeasuredKernel& kernel : profile.kernels)
    if (kernel.op == cost::Operation::kExperts)
      append(list, kernel.kernel + " (" + kernel.dtype + ")");
  return list;
}

}  // namespace

KernelRanking::KernelRanking(const std::filesystem::path& profile_file, const CostShape& shape,
                             const std::string& dtype, std::span<const std::string> kernels) {
  const cost::KernelProfile profile = cost::read_kernel_profile(profile_file);
  for (const std::string& name : kernels) {
    if (!has_kernel(profile, dtype, name)) {
      unknown_.push_back(name);
      continue;
    }
    names_.push_back(name);
    models_.emplace_back(profile_file, shape, KernelChoice{dtype, name});
  }
  if (!names_.empty()) return;
  std::string wanted;
  for (const std::string& name : kernels) append(wanted, name);
  throw ProfileMiss(fmt::format(
      "{}: measured none of {} with {} weights, only {}; measure them with thermoe calibrate",
      profile_file.string(), wanted, dtype, kernels_of(profile)));
}

std::vector<RankedKernel> KernelRanking::rank(const MoeWork& work,
                                              const HardwareState* state) const {
  std::vector<RankedKernel> ranked;
  for (size_t i = 0; i < models_.size(); ++i)
    ranked.push_back({names_[i], models_[i].moe_layer(work, state)});
  std::stable_sort(ranked.begin(), ranked.end(), [](const RankedKernel& a, const RankedKernel& b) {
    return a.cost.latency_us < b.cost.latency_us;
  });
  return ranked;
}

}  // namespace thermoe
