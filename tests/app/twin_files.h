// The shipped H100: files of the source tree, the twin's parameters.
#pragma once

#include <string>

#include "thermoe/digital_twin.h"

namespace thermoe::app {

inline std::string source(const std::string& relative) {
  return std::string(THERMOE_SOURCE_DIR) + "/" + relative;
}
inline TwinParameters h100() {
  return read_twin_parameters(source("data/profiles/h100-sxm-power.json"));
}

}  // namespace thermoe::app
