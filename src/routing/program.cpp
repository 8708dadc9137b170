#include "routing/program.h"

#include <algorithm>

namespace thermoe {

void Program::resize(int token_count, int expert_count, std::span<const int32_t> layout_first) {
  tokens = token_count;
  experts = expert_count;
  instances = layout_first.empty() ? experts : layout_first[static_cast<size_t>(experts)];
  single = instances == experts;
  stride = padded_row(instances);
  first.resize(static_cast<size_t>(experts) + 1);
  expert.resize(static_cast<size_t>(instances));
  for (int e = 0; e <= experts; ++e) first[e] = layout_first.empty() ? e : layout_first[e];
  for (int e = 0; e < experts; ++e)
    std::fill(expert.begin() + first[e], expert.begin() + first[e + 1], e);
  utility.resize(static_cast<size_t>(tokens) * static_cast<size_t>(stride));
  open.assign(static_cast<size_t>(stride), 0.0);
  priced = false;
}

void Program::reprice(std::span<const double> charge, std::span<const double> opening) {
  const size_t count = static_cast<size_t>(instances);
  charge_.assign(static_cast<size_t>(stride), 0.0);
  priced = false;
  for (size_t i = 0; i < count; ++i) {
    open[i] = price_to_grid(opening[i]);
    charge_[i] = price_to_grid(charge[i]);
    priced = priced || charge_[i] != 0.0;
  }
  if (!priced) return;
  value.resize(utility.size());
  for (int t = 0; t < tokens; ++t) {
    const double* from = utility_row(t);
    double* to = value.data() + row(t);
    for (int i = 0; i < stride; ++i) to[i] = from[i] - charge_[i];
  }
}

}  // namespace thermoe
