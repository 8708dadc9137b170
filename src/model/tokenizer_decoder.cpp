#include "model/tokenizer_decoder.h"

#include <charconv>
#include <optional>
#include <string_view>

#include "model/tokenizer_bpe.h"
#include "model/tokenizer_text.h"

namespace thermoe {
namespace {

using Tokens = std::vector<std::string>;

std::string join(const Tokens& tokens) {
  std::string out;
  for (const std::string& token : tokens) out += token;
  return out;
}

void replace_in(std::string& text, std::string_view pattern, std::string_view content) {
  if (text.find(pattern) == std::string::npos) return;
  std::string out;
  size_t done = 0;
  for (size_t found; (found = text.find(pattern, done)) != std::string::npos;) {
    out.append(text, done, found - done).append(content);
    done = found + pattern.size();
  }
  text = out.append(text, done);
}

Tokens apply_step(const ByteLevelDecode&, const Tokens& tokens) {
  std::string bytes;
  for (const std::string& token : tokens) bytes += bytes_of_spelling(token).value_or(token);
  return {replace_ill_formed(bytes)};
}

std::optional<char> fallback_byte(std::string_view token) {
  if (token.size() != 6 || !token.starts_with("<0x") || token.back() != '>') return std::nullopt;
  unsigned value = 0;
  // "+A" counts as hexadecimal in the reference's reader, and so here.
  const std::string_view digits = token.substr(token[3] == '+' ? 4 : 3, token[3] == '+' ? 1 : 2);
  const auto [end, error] =
      std::from_chars(digits.data(), digits.data() + digits.size(), value, 16);
  if (error != std::errc() || end != digits.data() + digits.size()) return std::nullopt;
  return static_cast<char>(value);
}

Tokens apply_step(const ByteFallbackDecode&, Tokens tokens) {
  Tokens out;
  std::string bytes;
  const auto flush = [&] {
    if (is_well_formed(bytes)) {
      if (!bytes.empty()) out.push_back(bytes);
    } else {
      out.insert(out.end(), bytes.size(), "\xEF\xBF\xBD");
    }
    bytes.clear();
  };
  for (std::string& token : tokens) {
    if (const auto byte = fallback_byte(token)) {
      bytes += *byte;
    } else {
      flush();
      out.push_back(std::move(token));
    }
  }
  flush();
  return out;
}

Tokens apply_step(const FuseDecode&, const Tokens& tokens) { return {join(tokens)}; }

Tokens apply_step(const ReplaceDecode& step, Tokens tokens) {
  for (std::string& token : tokens) replace_in(token, step.pattern, step.content);
  return tokens;
}

Tokens apply_step(const StripDecode& step, Tokens tokens) {
  for (std::string& token : tokens) {
    std::string_view rest = token;
    for (size_t i = 0; i < step.start && rest.starts_with(step.content); ++i) {
      rest.remove_prefix(step.content.size());
    }
    for (size_t i = 0; i < step.stop && rest.ends_with(step.content); ++i) {
      rest.remove_suffix(step.content.size());
    }
    token = std::string(rest);
  }
  return tokens;
}

Tokens apply_step(const MetaspaceDecode& step, Tokens tokens) {
  for (size_t i = 0; i < tokens.size(); ++i) {
    replace_in(tokens[i], step.mark, i == 0 && step.drop_first ? "" : " ");
  }
  return tokens;
}

}  // namespace

std::string decode_tokens(std::vector<std::string> tokens, const std::vector<DecoderStep>& steps) {
  for (const DecoderStep& step : steps) {
    tokens =
        std::visit([&](const auto& kind) { return apply_step(kind, std::move(tokens)); }, step);
  }
  return join(tokens);
}

}  // namespace thermoe
