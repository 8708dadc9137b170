#include <filesystem>
#include <optional>

#include "plan.h"
#include "records.h"

namespace thermoe::python {
namespace {

using Estimate = thermoe_cost_estimate;
using Surrogate = thermoe_cost_surrogate;
using State = thermoe_hardware_state;

constexpr Field<Estimate> kEstimateFields[] = {
    {"latency_us", &Estimate::latency_us},
    {"energy_mj", &Estimate::energy_mj},
    {"clock_bound_frac", &Estimate::clock_bound_frac},
    {"sm_active_frac", &Estimate::sm_active_frac},
    {"bytes", &Estimate::bytes},
    {"flops", &Estimate::flops},
    {"uncertainty_frac", &Estimate::uncertainty_frac},
};
constexpr Field<Surrogate> kSurrogateFields[] = {
    {"c0_us", &Surrogate::c0_us},
    {"open_us", &Surrogate::open_us},
    {"slope_us", &Surrogate::slope_us},
    {"c0_mj", &Surrogate::c0_mj},
    {"open_mj", &Surrogate::open_mj},
    {"slope_mj", &Surrogate::slope_mj},
    {"fit_error_frac", &Surrogate::fit_error_frac},
    {"envelope_gap_frac", &Surrogate::envelope_gap_frac},
};
using Multipliers = thermoe_multipliers;
constexpr Field<Multipliers> kMultiplierFields[] = {
    {"per_us", &Multipliers::per_us},
    {"per_mj", &Multipliers::per_mj},
};

// Sizes of a shape that has no name.
struct Sizes {
  int64_t hidden_size = 0, expert_inter_size = 0;
  int32_t experts = 0, top_k = 0, layers = 0;
};

class CostModel {
 public:
  CostModel(const std::optional<std::filesystem::path>& profile,
            const std::optional<std::string>& shape, const Sizes& sizes, const std::string& dtype,
            const std::string& kernel) {
    const std::string file =
        profile ? profile->string()
                : nb::cast<std::string>(nb::str(nb::module_::import_("thermoe").attr("shipped")(
                      "data/profiles/h100-sxm.json")));
    const bool sized_by_hand = sizes.hidden_size != 0 || sizes.experts != 0;
    auto options = sized<thermoe_cost_model_options>();
    options.profile = file.c_str();
    options.shape = shape ? shape->c_str() : sized_by_hand ? nullptr : "qwen3-30b-a3b";
    options.dtype = dtype.c_str();
    options.kernel = kernel.c_str();
    options.hidden_size = sizes.hidden_size;
    options.expert_inter_size = sizes.expert_inter_size;
    options.experts = sizes.experts;
    options.top_k = sizes.top_k;
    options.layers = sizes.layers;
    thermoe_cost_model* handle = nullptr;
    thermoe_status status = THERMOE_OK;
    {
      const nb::gil_scoped_release others_run;
      status = thermoe_cost_model_open(&options, &handle);
    }
    check(status);
    handle_.reset(handle);
  }

  Estimate layer(double tokens, double distinct_experts, double assignments,
                 const State* state) const {
    auto estimate = sized<Estimate>();
    check(thermoe_cost_model_layer(handle_.get(), tokens, distinct_experts, assignments, state,
                                   &estimate));
    return estimate;
  }
  Surrogate surrogate(double tokens, const State* state) const {
    auto surrogate = sized<Surrogate>();
    check(thermoe_cost_model_surrogate(handle_.get(), tokens, state, &surrogate));
    return surrogate;
  }

 private:
  Handle<thermoe_cost_model, thermoe_cost_model_close> handle_;
};

using Limit = std::optional<double>;

// None: no such limit. The C interface's zero means that too, Python's is a mistake.
double limit_of(const Limit& limit, const char* name) {
  if (limit && *limit == 0)
    raise_invalid("Governor: " + std::string(name) + " is 0; give a positive number");
  return limit.value_or(0);
}

thermoe_governor_limits limits_of(const Limit& power_cap_w, const Limit& temperature_cap_c,
                                  const Limit& layer_latency_target_us, double max_open_price) {
  auto limits = sized<thermoe_governor_limits>();
  limits.power_cap_w = limit_of(power_cap_w, "power_cap_w");
  limits.temperature_cap_c = limit_of(temperature_cap_c, "temperature_cap_c");
  limits.layer_latency_target_us = limit_of(layer_latency_target_us, "layer_latency_target_us");
  limits.max_open_price = limit_of(max_open_price, "max_open_price");
  return limits;
}

class Governor {
 public:
  Governor(const Surrogate& surrogate, const Limit& power_cap_w, const Limit& temperature_cap_c,
           const Limit& layer_latency_target_us, double max_open_price)
      : surrogate_(surrogate) {
    const auto limits =
        limits_of(power_cap_w, temperature_cap_c, layer_latency_target_us, max_open_price);
    thermoe_governor* handle = nullptr;
    check(thermoe_governor_create(&limits, &surrogate_, &handle));
    handle_.reset(handle);
  }
  void set_limits(const Limit& power_cap_w, const Limit& temperature_cap_c,
                  const Limit& layer_latency_target_us, double max_open_price) {
    const auto limits =
        limits_of(power_cap_w, temperature_cap_c, layer_latency_target_us, max_open_price);
    check(thermoe_governor_set_limits(handle_.get(), &limits));
  }
  Multipliers update(const State& state, double dt_s, std::optional<double> layer_latency_us) {
    auto multipliers = sized<Multipliers>();
    check(thermoe_governor_update(handle_.get(), &state, double_or_missing(layer_latency_us), dt_s,
                                  &multipliers));
    return multipliers;
  }
  Prices prices(int32_t experts, const Layout* layout, const Surrogate* surrogate) const {
    const int32_t count = layout != nullptr ? thermoe_layout_instances(layout->get()) : experts;
    if (count < 1 || count > (1 << 20))
      raise_invalid("prices of " + std::to_string(count) +
                    " experts: give their number or a layout");
    Prices prices(numpy_empty({count}, "float32"), numpy_empty({count}, "float32"), nb::none(),
                  nb::none(), nb::none());
    check(thermoe_governor_prices(handle_.get(), surrogate != nullptr ? surrogate : &surrogate_,
                                  layout != nullptr ? layout->get() : nullptr, count,
                                  prices.open.data<float>(), prices.slope.data<float>()));
    return prices;
  }

 private:
  Surrogate surrogate_;
  Handle<thermoe_governor, thermoe_governor_close> handle_;
};

void bind_cost_model(nb::module_& m) {
  nb::class_<CostModel>(m, "CostModel")
      .def(
          "__init__",
          [](CostModel* self, const std::optional<std::filesystem::path>& profile,
             const std::optional<std::string>& shape, const std::string& dtype,
             const std::string& kernel, int64_t hidden_size, int64_t expert_inter_size,
             int32_t experts, int32_t top_k, int32_t layers) {
            new (self)
                CostModel(profile, shape, {hidden_size, expert_inter_size, experts, top_k, layers},
                          dtype, kernel);
          },
          nb::arg("profile") = nb::none(), nb::arg("shape") = nb::none(), nb::kw_only(),
          nb::arg("dtype") = "bf16", nb::arg("kernel") = "", nb::arg("hidden_size") = 0,
          nb::arg("expert_inter_size") = 0, nb::arg("experts") = 0, nb::arg("top_k") = 0,
          nb::arg("layers") = 0)
      .def("layer", &CostModel::layer, nb::arg("tokens"), nb::arg("distinct_experts"),
           nb::arg("assignments"), nb::arg("state") = nb::none())
      .def("surrogate", &CostModel::surrogate, nb::arg("tokens"), nb::arg("state") = nb::none());
}

}  // namespace

void bind_costs(nb::module_& m) {
  nb::class_<Estimate> estimate(m, "CostEstimate");
  def_fields(estimate, "CostEstimate", kEstimateFields);
  estimate
      .def_prop_ro("bound_by",
                   [](const Estimate& e) {
                     static constexpr const char* kNames[] = {"memory", "compute", "overhead"};
                     return kNames[e.bound_by];
                   })
      .def_prop_ro("cost_source", [](const Estimate& e) {
        static constexpr const char* kNames[] = {"measured", "interpolated", "transferred",
                                                 "roofline"};
        return kNames[e.cost_source];
      });
  nb::class_<Surrogate> surrogate(m, "CostSurrogate");
  def_fields(surrogate, "CostSurrogate", kSurrogateFields);
  nb::class_<Multipliers> multipliers(m, "Multipliers");
  def_fields(multipliers, "Multipliers", kMultiplierFields);
  bind_cost_model(m);
}

void bind_governor(nb::module_& m) {
  const auto none = nb::none();
  nb::class_<Governor>(m, "Governor")
      .def(nb::init<const Surrogate&, const Limit&, const Limit&, const Limit&, double>(),
           nb::arg("surrogate"), nb::kw_only(), nb::arg("power_cap_w") = none,
           nb::arg("temperature_cap_c") = none, nb::arg("layer_latency_target_us") = none,
           nb::arg("max_open_price") = 0.25)
      .def("set_limits", &Governor::set_limits, nb::kw_only(), nb::arg("power_cap_w") = none,
           nb::arg("temperature_cap_c") = none, nb::arg("layer_latency_target_us") = none,
           nb::arg("max_open_price") = 0.25)
      .def("update", &Governor::update, nb::arg("state"), nb::arg("dt_s"),
           nb::arg("layer_latency_us") = none)
      .def("prices", &Governor::prices, nb::arg("experts") = 0, nb::kw_only(),
           nb::arg("layout") = none, nb::arg("surrogate") = none);
}

}  // namespace thermoe::python
