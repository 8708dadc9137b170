// The shipped profiles, and a device's peaks from its power profile.
#pragma once

#include <filesystem>
#include <string>
#include <vector>

namespace thermoe::app {

// The files of data/profiles in order. Throws IoError where that folder isn't found.
std::vector<std::filesystem::path> shipped_profiles();
// By its name, "<device>-power.json"; the others are kernel profiles.
bool is_power_profile(const std::filesystem::path& file);

struct DevicePeaks {
  double memory_bytes_per_s = 0, bf16_flops_per_s = 0;
  std::string file_name;  // of the power profile, without its folder
};

// From `power_profile`, or where that is empty from the shipped profile of that device's name.
// Throws IoError for a file that is none; ProfileMiss, listing the devices, where none is shipped.
DevicePeaks device_peaks(const std::string& device, const std::string& power_profile);

}  // namespace thermoe::app
