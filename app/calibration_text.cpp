#include "calibration_text.h"

#include <fmt/format.h>

#include "paths.h"
#include "thermoe/error.h"

namespace thermoe::app {

std::vector<std::vector<int32_t>> read_beginnings(const Tokenizer& tokenizer,
                                                  std::span<const std::string> files,
                                                  int64_t tokens) {
  const int64_t count = static_cast<int64_t>(files.size());
  std::vector<std::vector<int32_t>> texts;
  for (int64_t f = 0; f < count; ++f) {
    const std::string& file = files[static_cast<size_t>(f)];
    const size_t wanted = static_cast<size_t>(tokens * (f + 1) / count - tokens * f / count);
    std::vector<int32_t> text = tokenizer.encode(read_file(file));
    if (text.size() < wanted)
      throw IoError(file, fmt::format("holds {} tokens, fewer than the {} asked of it: give more "
                                      "text or a smaller --tokens",
                                      text.size(), wanted));
    text.resize(wanted);
    texts.push_back(std::move(text));
  }
  return texts;
}

}  // namespace thermoe::app
