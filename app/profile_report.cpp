#include "profile_report.h"

#include <fmt/format.h>

namespace thermoe::app {
namespace {

std::string percent(const cost::HeldOutErrors& errors, double frac) {
  return errors.known ? fmt::format("{:.1f} %", 100 * frac) : "-";
}

nlohmann::ordered_json errors_json(const cost::HeldOutErrors& errors) {
  if (!errors.known) return nullptr;
  return {{"median_frac", errors.median_frac}, {"p90_frac", errors.p90_frac}};
}

}  // namespace

std::vector<std::string> held_out_header() {
  return {"unseen tokens: median", "p90", "unseen shape: median", "p90",
          "its power: median",     "p90"};
}

std::vector<std::string> held_out_cells(const cost::MeasuredKernel& kernel) {
  std::vector<std::string> cells;
  for (const cost::HeldOutErrors* errors :
       {&kernel.unseen_tokens, &kernel.unseen_shape, &kernel.unseen_shape_power}) {
    cells.push_back(percent(*errors, errors->median_frac));
    cells.push_back(percent(*errors, errors->p90_frac));
  }
  return cells;
}

nlohmann::ordered_json kernel_json(const cost::MeasuredKernel& kernel) {
  return {{"op", cost::name_of(kernel.op)},
          {"kernel", kernel.kernel},
          {"dtype", kernel.dtype},
          {"curves", kernel.curves.size()},
          {"unseen_tokens_error", errors_json(kernel.unseen_tokens)},
          {"unseen_shape_error", errors_json(kernel.unseen_shape)},
          {"unseen_shape_power_error", errors_json(kernel.unseen_shape_power)}};
}

}  // namespace thermoe::app
