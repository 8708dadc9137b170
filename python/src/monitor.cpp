#include "records.h"

namespace thermoe::python {
namespace {

using State = thermoe_hardware_state;
constexpr Field<State> kReadings[] = {
    {"power_instant_w", &State::power_instant_w},
    {"power_average_w", &State::power_average_w},
    {"power_limit_w", &State::power_limit_w},
    {"energy_mj", &State::energy_mj},
    {"sm_clock_mhz", &State::sm_clock_mhz},
    {"sm_clock_max_mhz", &State::sm_clock_max_mhz},
    {"mem_clock_mhz", &State::mem_clock_mhz},
    {"temperature_c", &State::temperature_c},
    {"memory_temperature_c", &State::memory_temperature_c},
    {"temperature_limit_c", &State::temperature_limit_c},
    {"sm_active_frac", &State::sm_active_frac},
    {"tensor_active_frac", &State::tensor_active_frac},
    {"dram_active_frac", &State::dram_active_frac},
};

State missing_readings() {
  State state = sized<State>();
  check(thermoe_hardware_state_missing(&state));
  return state;
}

void set_throttle_reasons(State& state, std::optional<uint64_t> reasons) {
  state.throttle_reasons_known = reasons ? 1 : 0;
  state.throttle_reasons = reasons.value_or(0);
}

// By keyword; a reading that is not given is missing.
void make_state(State* self, const nb::kwargs& readings) {
  State state = missing_readings();
  for (const auto& [key, value] : readings) {
    const auto name = cast_to<std::string>(key, "the name of a reading");
    bool known = true;
    if (name == "time_s")
      state.time_s = cast_to<double>(value, "time_s");
    else if (name == "present")
      state.present = cast_to<bool>(value, "present") ? 1 : 0;
    else if (name == "throttle_reasons")
      set_throttle_reasons(state, cast_to<std::optional<uint64_t>>(value, "throttle_reasons"));
    else
      known = false;
    for (const auto& field : kReadings)
      if (name == field.name) {
        state.*field.member = double_or_missing(cast_to<std::optional<double>>(value, field.name));
        known = true;
      }
    if (!known) throw nb::type_error(("HardwareState has no reading '" + name + "'").c_str());
  }
  new (self) State(state);
}

class Monitor {
 public:
  Monitor(const std::string& source, double rate_hz, double period_s) {
    std::string full = source;
    if (source == "twin")
      full += ":" + nb::cast<std::string>(nb::str(nb::module_::import_("thermoe").attr("shipped")(
                        "data/profiles/h100-sxm-power.json")));
    auto options = sized<thermoe_monitor_options>();
    options.source = full.c_str();
    options.rate_hz = rate_hz;
    options.period_s = period_s;
    thermoe_monitor* handle = nullptr;
    thermoe_status status = THERMOE_OK;
    {
      const nb::gil_scoped_release others_run;
      status = thermoe_monitor_open(&options, &handle);
    }
    check(status);
    handle_.reset(handle);
  }
  // Waits for the polling thread, which needs no GIL.
  ~Monitor() {
    const nb::gil_scoped_release others_run;
    handle_.reset();
  }

  void start() {
    run([this] { return thermoe_monitor_start(handle_.get()); });
  }
  void stop() {
    run([this] { return thermoe_monitor_stop(handle_.get()); });
  }
  State poll() {
    State state = sized<State>();
    run([&] { return thermoe_monitor_poll(handle_.get(), &state); });
    return state;
  }
  State state() {
    State state = sized<State>();
    check(thermoe_monitor_state(handle_.get(), &state));
    return state;
  }
  const char* source() const { return thermoe_monitor_source(handle_.get()); }
  void advance(const thermoe_cost_estimate& work, double period_s) {
    run([&] { return thermoe_monitor_advance_twin(handle_.get(), &work, period_s); });
  }
  void set_environment(double power_cap_w, std::optional<double> inlet_c,
                       double sink_resistance_factor, bool sensors_lost) {
    auto environment = sized<thermoe_twin_environment>();
    environment.power_cap_w = power_cap_w;
    if (sink_resistance_factor == 0)
      raise_invalid("sink_resistance_factor is 0: give a positive number");
    environment.sink_resistance_factor = sink_resistance_factor;
    environment.inlet_given = inlet_c ? 1 : 0;
    environment.inlet_c = inlet_c.value_or(0);
    environment.sensors_lost = sensors_lost ? 1 : 0;
    check(thermoe_monitor_set_twin(handle_.get(), &environment));
  }

 private:
  template <typename Body>
  void run(Body&& body) {
    thermoe_status status = THERMOE_OK;
    {
      const nb::gil_scoped_release others_run;
      status = body();
    }
    check(status);
  }
  Handle<thermoe_monitor, thermoe_monitor_close> handle_;
};

}  // namespace

void bind_monitor(nb::module_& m) {
  nb::class_<State> state(m, "HardwareState");
  state.def("__init__", make_state)
      .def_prop_rw(
          "time_s", [](const State& s) { return s.time_s; },
          [](State& s, double value) { s.time_s = value; })
      .def_prop_rw(
          "present", [](const State& s) { return s.present != 0; },
          [](State& s, bool value) { s.present = value ? 1 : 0; })
      .def_prop_rw(
          "throttle_reasons",
          [](const State& s) {
            return s.throttle_reasons_known != 0 ? nb::object(nb::int_(s.throttle_reasons))
                                                 : nb::none();
          },
          [](State& s, std::optional<uint64_t> value) { set_throttle_reasons(s, value); },
          nb::for_setter(nb::arg("value").none()));
  for (const auto& field : kReadings)
    state.def_prop_rw(
        field.name, [member = field.member](const State& s) { return optional_of(s.*member); },
        [member = field.member](State& s, std::optional<double> value) {
          s.*member = double_or_missing(value);
        },
        nb::for_setter(nb::arg("value").none()));
  state.def("__repr__", [](const State& s) {
    return text_of("HardwareState", s, std::span<const Field<State>>(kReadings));
  });

  nb::class_<Monitor>(m, "Monitor")
      .def(nb::init<const std::string&, double, double>(), nb::arg("source") = "nvml:0",
           nb::kw_only(), nb::arg("rate_hz") = 20.0, nb::arg("period_s") = 0.05)
      .def("start", &Monitor::start)
      .def("stop", &Monitor::stop)
      .def("poll", &Monitor::poll)
      .def("state", &Monitor::state)
      .def("advance", &Monitor::advance, nb::arg("work"), nb::arg("period_s") = 0.0)
      .def("set_environment", &Monitor::set_environment, nb::kw_only(),
           nb::arg("power_cap_w") = 0.0, nb::arg("inlet_c") = nb::none(),
           nb::arg("sink_resistance_factor") = 1.0, nb::arg("sensors_lost") = false)
      .def_prop_ro("source", &Monitor::source)
      .def("__enter__",
           [](nb::object self) {
             nb::cast<Monitor&>(self).start();
             return self;
           })
      .def("__exit__", [](Monitor& self, nb::args) { self.stop(); });
}

}  // namespace thermoe::python
