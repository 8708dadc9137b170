// For comparison with other implementations (tests/golden/compare_tokenizers.py).
//   model_tokenize_tool TOKENIZER.json
// Reads texts from stdin until it ends: a length (uint32) and as many bytes. Answers each with
// the number of ids (uint32), the ids (int32), the input bytes up to each token's end (int64), and
// the ids decoded without and with special tokens (length, bytes). Native byte order.
#include <cstdint>
#include <cstdio>
#include <exception>
#include <string>
#include <string_view>
#include <vector>

#include "thermoe/tokenizer.h"

namespace {

void put(const void* data, size_t bytes) { std::fwrite(data, 1, bytes, stdout); }

void put_text(std::string_view text) {
  const auto length = static_cast<uint32_t>(text.size());
  put(&length, sizeof(length));
  put(text.data(), text.size());
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 2) {
    std::fputs("usage: model_tokenize_tool TOKENIZER.json\n", stderr);
    return 2;
  }
  try {
    const thermoe::Tokenizer tokenizer(argv[1]);
    uint32_t length = 0;
    while (std::fread(&length, sizeof(length), 1, stdin) == 1) {
      std::string text(length, '\0');
      if (std::fread(text.data(), 1, length, stdin) != length) return 1;
      std::vector<int64_t> ends;
      const std::vector<int32_t> ids = tokenizer.encode(text, ends);
      const auto count = static_cast<uint32_t>(ids.size());
      put(&count, sizeof(count));
      put(ids.data(), ids.size() * sizeof(ids[0]));
      put(ends.data(), ends.size() * sizeof(ends[0]));
      put_text(tokenizer.decode(ids, true));
      put_text(tokenizer.decode(ids, false));
    }
  } catch (const std::exception& e) {
    std::fprintf(stderr, "%s\n", e.what());
    return 2;
  }
  return 0;
}
