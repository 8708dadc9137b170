#include "device_peaks.h"

#include <fmt/format.h>

#include <algorithm>

#include "paths.h"
#include "thermoe/digital_twin.h"
#include "thermoe/error.h"

namespace thermoe::app {
namespace {

DevicePeaks peaks_in(const std::filesystem::path& file) {
  const TwinParameters p = read_twin_parameters(file);
  return {p.memory_bytes_per_s, p.tensor_flops_per_s, file.filename().string()};
}

}  // namespace

std::vector<std::filesystem::path> shipped_profiles() {
  std::vector<std::filesystem::path> files;
  for (const auto& entry : std::filesystem::directory_iterator(shipped("data/profiles")))
    if (entry.path().extension() == ".json") files.push_back(entry.path());
  std::sort(files.begin(), files.end());
  return files;
}

bool is_power_profile(const std::filesystem::path& file) {
  const std::string suffix = "-power.json", name = file.filename().string();
  return name.size() > suffix.size() && name.substr(name.size() - suffix.size()) == suffix;
}

DevicePeaks device_peaks(const std::string& device, const std::string& power_profile) {
  if (!power_profile.empty()) return peaks_in(power_profile);
  std::string known;
  for (const std::filesystem::path& file : shipped_profiles()) {
    if (!is_power_profile(file)) continue;
    const std::string name = read_twin_parameters(file).device;
    if (name == device) return peaks_in(file);
    known += (known.empty() ? "" : ", ") + name;
  }
  throw ProfileMiss(fmt::format(
      "no power profile of \"{}\" is shipped (there are: {}); name one with --power-profile",
      device, known));
}

}  // namespace thermoe::app
