// config.json of the supported families, from memory.
#pragma once

#include <string>
#include <string_view>

#include "thermoe/model_config.h"

namespace thermoe {

// As read_model_config, of the text of a config.json and, where not empty, of a
// generation_config.json. `path` and `generation_path` only name them in errors.
ModelConfig parse_model_config(std::string_view text, const std::string& path,
                               std::string_view generation_text = {},
                               const std::string& generation_path = {});

}  // namespace thermoe
