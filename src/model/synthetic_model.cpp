#include "thermoe/synthetic_model.h"

#include <fmt/format.h>

#include <charconv>

#include "thermoe/error.h"

namespace thermoe {

SyntheticModel SyntheticModel::parse(const std::string& text) {
  if (!text.starts_with(kSyntheticPrefix))
    throw InvalidArgument(
        fmt::format("'{}' is no synthetic model: give {}NAME", text, kSyntheticPrefix));
  const std::string rest = text.substr(kSyntheticPrefix.size());
  const size_t colon = rest.find(':');
  SyntheticModel model;
  model.shape = cost_shape(rest.substr(0, colon));
  if (colon == std::string::npos) return model;
  constexpr std::string_view kLayers = "layers=";
  const std::string_view option = std::string_view(rest).substr(colon + 1);
  const char* const begin = option.data() + kLayers.size();
  const char* const end = option.data() + option.size();
  const bool named = option.starts_with(kLayers);
  if (!named || begin == end || std::from_chars(begin, end, model.layers).ptr != end ||
      model.layers < 1 || model.layers > model.shape.layers)
    throw InvalidArgument(fmt::format("'{}': after the name may stand layers=N, N from 1 to {}",
                                      text, model.shape.layers));
  return model;
}

}  // namespace thermoe
