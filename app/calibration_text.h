// The tokens that a model is calibrated on.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "thermoe/tokenizer.h"

namespace thermoe::app {

// The beginning of every text, as many tokens of each, `tokens` in all. Throws IoError naming a
// file that is too short or can't be read.
std::vector<std::vector<int32_t>> read_beginnings(const Tokenizer& tokenizer,
                                                  std::span<const std::string> files,
                                                  int64_t tokens);

}  // namespace thermoe::app
