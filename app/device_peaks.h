// A device's peaks, from its power profile.
#pragma once

#include <string>

namespace thermoe::app {

struct DevicePeaks {
  double memory_bytes_per_s = 0, bf16_flops_per_s = 0;
  std::string file_name;  // of the power profile, without its folder
};

// From `power_profile`, or where that is empty from the shipped profile of that device's name.
// Throws IoError for a file that is none; ProfileMiss, listing the devices, where none is shipped.
DevicePeaks device_peaks(const std::string& device, const std::string& power_profile);

}  // namespace thermoe::app
