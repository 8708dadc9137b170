// tokenizer.json, read and checked.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "model/json_file.h"
#include "model/tokenizer_added.h"
#include "model/tokenizer_bpe.h"
#include "model/tokenizer_decoder.h"
#include "model/tokenizer_normalizer.h"
#include "model/tokenizer_pretokenizer.h"

namespace thermoe {

struct TokenizerSpec {
  std::vector<AddedToken> added_tokens;
  std::vector<NormalizerStep> normalizer;
  PreTokenizer pre_tokenizer;
  BpeSpec model;
  std::optional<std::vector<DecoderStep>> decoder;  // absent: tokens joined by spaces
};

// Throws IoError that names `path` and the component for what is not supported, of the wrong type
// or out of range.
TokenizerSpec read_tokenizer(const nlohmann::json& file, const std::string& path);

}  // namespace thermoe
