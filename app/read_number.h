// Text as a number.
#pragma once

#include <charconv>
#include <optional>
#include <string_view>

namespace thermoe::app {

// The whole of `text` as a number, which may be a NaN or an infinity; nothing where it is none.
inline std::optional<double> read_number(std::string_view text) {
  double value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || end != text.data() + text.size()) return std::nullopt;
  return value;
}

}  // namespace thermoe::app
