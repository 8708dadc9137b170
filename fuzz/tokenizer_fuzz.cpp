// tokenizer.json from any bytes, then encoding and decoding with what is accepted.
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <string_view>
#include <vector>

#include "thermoe/error.h"
#include "thermoe/tokenizer.h"

namespace {

using namespace std::string_view_literals;

constexpr std::string_view kTexts[] = {""sv,
                                       " a"sv,
                                       "ab  abc\n<s>x 12'S"sv,
                                       "\0\xFF\xE2\x82z\xF0\x9F\x98\x80"sv,
                                       "e\u0301\u0323 \uAC00\u11A8 \u2126\u2581\u2581a"sv,
                                       "aaaaaaaaaaaaaaaabbbbbbbbbbbbbbbb      "sv};

void check(const thermoe::Tokenizer& tokenizer, std::string_view text) {
  std::vector<int64_t> ends;
  const std::vector<int32_t> ids = tokenizer.encode(text, ends);
  if (ids.size() != ends.size()) std::abort();
  int64_t before = 0;
  for (size_t i = 0; i < ids.size(); ++i) {
    if (ids[i] < 0 || ids[i] >= tokenizer.vocab_size()) std::abort();
    if (ends[i] < before || ends[i] > static_cast<int64_t>(text.size())) std::abort();
    before = ends[i];
  }
  if (!ids.empty() && before != static_cast<int64_t>(text.size())) std::abort();
  tokenizer.decode(ids, true);
  tokenizer.decode(ids, false);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string_view json(reinterpret_cast<const char*>(data), size);
  try {
    const auto tokenizer = thermoe::Tokenizer::from_json(json, "fuzz.json");
    for (const std::string_view text : kTexts) check(tokenizer, text);
  } catch (const thermoe::IoError&) {  // the one way to refuse a file
  }
  return 0;
}
