#include "model/tokenizer_text.h"

namespace thermoe {
namespace {

constexpr std::string_view kReplacement = "\xEF\xBF\xBD";  // U+FFFD

}  // namespace

bool is_continuation(char byte) { return (static_cast<unsigned char>(byte) & 0xC0) == 0x80; }

// Table 3-7 of the Unicode standard: only the second byte's range depends on the first.
Utf8Step utf8_step(std::string_view text, size_t at) {
  const auto byte = [&](size_t i) { return static_cast<unsigned char>(text[i]); };
  const unsigned first = byte(at);
  if (first < 0x80) return {first, 1, true};
  if (first < 0xC2 || first > 0xF4) return {};
  const uint32_t length = first < 0xE0 ? 2 : first < 0xF0 ? 3 : 4;
  unsigned low = 0x80;
  unsigned high = 0xBF;
  if (first == 0xE0) low = 0xA0;
  if (first == 0xED) high = 0x9F;
  if (first == 0xF0) low = 0x90;
  if (first == 0xF4) high = 0x8F;
  char32_t code_point = first & (0x7Fu >> length);
  for (uint32_t i = 1; i < length; ++i) {
    if (at + i >= text.size()) return {0xFFFD, i, false};
    const unsigned next = byte(at + i);
    if (next < low || next > high) return {0xFFFD, i, false};
    code_point = code_point << 6 | (next & 0x3F);
    low = 0x80;
    high = 0xBF;
  }
  return {code_point, length, true};
}

void append_utf8(char32_t code_point, std::string& out) {
  const auto put = [&](char32_t byte) { out += static_cast<char>(byte); };
  if (code_point < 0x80) {
    put(code_point);
  } else if (code_point < 0x800) {
    put(0xC0 | code_point >> 6);
    put(0x80 | (code_point & 0x3F));
  } else if (code_point < 0x10000) {
    put(0xE0 | code_point >> 12);
    put(0x80 | (code_point >> 6 & 0x3F));
    put(0x80 | (code_point & 0x3F));
  } else {
    put(0xF0 | code_point >> 18);
    put(0x80 | (code_point >> 12 & 0x3F));
    put(0x80 | (code_point >> 6 & 0x3F));
    put(0x80 | (code_point & 0x3F));
  }
}

bool is_well_formed(std::string_view bytes) {
  for (size_t at = 0; at < bytes.size();) {
    const Utf8Step step = utf8_step(bytes, at);
    if (!step.valid) return false;
    at += step.bytes;
  }
  return true;
}

std::string replace_ill_formed(std::string_view bytes) {
  std::string out;
  out.reserve(bytes.size());
  for (size_t at = 0; at < bytes.size();) {
    const Utf8Step step = utf8_step(bytes, at);
    out += step.valid ? bytes.substr(at, step.bytes) : kReplacement;
    at += step.bytes;
  }
  return out;
}

AlignedText AlignedText::from_input(std::string_view input) {
  AlignedText out;
  if (is_well_formed(input)) {
    out.text_ = input;
    return out;
  }
  out = rewrite_of(out);
  for (size_t at = 0; at < input.size();) {
    const Utf8Step step = utf8_step(input, at);
    at += step.bytes;
    out.append(step.valid ? input.substr(at - step.bytes, step.bytes) : kReplacement,
               static_cast<int64_t>(at));
  }
  return out;
}

int64_t AlignedText::end_of(size_t length) const {
  while (length > 0 && length < text_.size() && is_continuation(text_[length])) --length;
  if (length == 0) return begin_;
  return identity_ ? begin_ + static_cast<int64_t>(length) : ends_[length - 1];
}

AlignedText AlignedText::slice(size_t from, size_t to) const {
  AlignedText out;
  out.begin_ = end_of(from);
  out.text_ = text_.substr(from, to - from);
  out.identity_ = identity_;
  if (!identity_) {
    out.ends_.assign(ends_.begin() + static_cast<ptrdiff_t>(from),
                     ends_.begin() + static_cast<ptrdiff_t>(to));
  }
  return out;
}

AlignedText AlignedText::rewrite_of(const AlignedText& other) {
  AlignedText out;
  out.begin_ = other.begin_;
  out.identity_ = false;
  return out;
}

void AlignedText::append(std::string_view text, int64_t end) {
  const int64_t before = ends_.empty() ? begin_ : ends_.back();
  text_ += text;
  size_t last = text.empty() ? 0 : text.size() - 1;  // the last character's first byte
  while (last > 0 && is_continuation(text[last])) --last;
  ends_.insert(ends_.end(), last, before);
  ends_.insert(ends_.end(), text.size() - last, end);
}

void AlignedText::append(const AlignedText& other, size_t from, size_t to) {
  text_.append(other.text_, from, to - from);
  for (size_t i = from; i < to; ++i) {
    ends_.push_back(other.identity_ ? other.begin_ + static_cast<int64_t>(i) + 1 : other.ends_[i]);
  }
}

}  // namespace thermoe
