// Normalisers: what is done to the text before it is split into words.
#pragma once

#include <string>
#include <variant>
#include <vector>

#include "model/tokenizer_text.h"

namespace thermoe {

// Unicode's canonical composition, by the Unicode version of tokenizers' own (9.0: marks and
// compositions of later versions stay as they are).
struct NfcStep {};
struct PrependStep {
  std::string prefix;  // put before a text that is not empty
};
struct ReplaceStep {
  std::string pattern;  // not empty
  std::string content;
};
using NormalizerStep = std::variant<NfcStep, PrependStep, ReplaceStep>;

// Applies the steps in order. What is inserted or changed keeps the place in the input of what it
// stands for, exact outside a changed group of combining characters.
AlignedText normalize(const AlignedText& text, const std::vector<NormalizerStep>& steps);

// Shared with the Metaspace pre-tokeniser.
AlignedText replace_all(const AlignedText& text, const std::string& pattern,
                        const std::string& content);
AlignedText prepend(const AlignedText& text, const std::string& prefix);

}  // namespace thermoe
