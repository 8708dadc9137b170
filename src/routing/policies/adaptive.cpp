// adaptive: the routing program of docs/theory.md, by name.
#include <fmt/format.h>

#include "routing/policies/makers.h"
#include "thermoe/error.h"

namespace thermoe {
namespace {

// Of an expert's output norm, by measured cross-entropy (docs/utility.md).
constexpr double kNormPower = 0.5;

UtilityModel utility_of(const PolicyArguments& arguments, const PolicyContext& context) {
  const auto power = static_cast<float>(arguments.number("power", 1e-3, 1e3));
  const size_t kind = arguments.choice("utility", {"auto", "gate", "calibrated"});
  if (kind == 1 || (kind == 0 && context.calibration == nullptr)) {
    if (arguments.has("norm"))
      throw InvalidArgument("policy adaptive: norm needs a calibration of the model's experts");
    return {.power = power, .scale = {}, .variant_error_weight = 1.0f};
  }
  if (context.calibration == nullptr)
    throw InvalidArgument(
        "policy adaptive: utility=calibrated needs the model's calibration: make one with thermoe "
        "calibrate-experts");
  const double norm_power =
      arguments.has("norm") ? arguments.number("norm", -8.0, 8.0) : kNormPower;
  return calibrated_utility(*context.calibration, power, static_cast<float>(norm_power));
}

std::unique_ptr<RoutingPolicy> make_adaptive(const PolicyArguments& arguments,
                                             const PolicyContext& context) {
  AdaptiveRouterSettings settings;
  settings.open_price = static_cast<float>(arguments.number("open", 0.0, 1e6));
  settings.slope_price = static_cast<float>(arguments.number("slope", 0.0, 1e6));
  settings.min_k = arguments.integer("min_k", 0);
  const size_t search = arguments.choice("search", {"auto", "proven", "climb"});
  if (search == 2 || (search == 0 && context.on_gpu))
    settings.search = AdaptiveRouterSettings::Search::kClimb;
  settings.utility = utility_of(arguments, context);
  settings.utility.variant_error_weight = static_cast<float>(arguments.number("error", 0.0, 1e6));
  if (arguments.has("loss") && arguments.has("budget"))
    throw InvalidArgument("policy adaptive: give loss or budget, not both");
  if (arguments.has("loss"))
    settings.goal = {RoutingGoal::Kind::kLeastCost, 1.0 - arguments.number("loss", 0.0, 1.0)};
  if (arguments.has("budget"))
    settings.goal = {RoutingGoal::Kind::kBestQuality, arguments.number("budget", 0.0)};
  return std::make_unique<AdaptiveRouter>(std::move(settings));
}

}  // namespace

PolicyMaker adaptive_policy() {
  return {
      .info =
          {.name = "adaptive",
           .summary = "most utility minus cost, or one at a limit of the other, certified",
           .source = "thermoe",
           .parameters =
               {{"open", "0", "price of opening an expert, in utility"},
                {"slope", "0", "price of a token through an expert"},
                {"power", "2", "power of the normalised gate score"},
                {"utility", "auto",
                 "what an expert is worth: gate, calibrated, or auto: as there is a calibration"},
                {"norm", "", "power of an expert's output norm, if calibrated; 0.5"},
                {"error", "1", "harm of a variant's relative error, in that of leaving it out"},
                {"min_k", "0", "fewest experts of a token; 0: exactly k"},
                {"search", "auto",
                 "how far at given prices: proven, climb as the GPU does, or auto: where it runs"},
                {"loss", "", "least cost, losing at most this fraction of utility"},
                {"budget", "", "best quality at most at this cost"}}},
      .make = make_adaptive};
}

}  // namespace thermoe
