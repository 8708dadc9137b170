#include "plan.h"

#include <algorithm>
#include <string>
#include <vector>

#include "records.h"

namespace thermoe::python {
namespace {

Array floats(nb::handle from, const char* name) { return {from, name, {Type::kF32}, 1}; }
Array out_of(nb::handle from, const char* name, Type type, size_t dims) {
  return {from, name, {type}, dims, /*writable=*/true};
}

using Report = thermoe_report;
constexpr Field<Report> kReportFields[] = {
    {"objective", &Report::objective},
    {"bound", &Report::bound},
    {"gap_frac", &Report::gap_frac},
    {"utility", &Report::utility},
    {"cost", &Report::cost},
    {"limit_excess", &Report::limit_excess},
    {"gate_mass_frac", &Report::gate_mass_frac},
};

// (name, error_frac, read_frac, compute_frac) of each variant.
struct Variants {
  std::vector<std::string> names;
  std::vector<const char*> pointers;
  std::vector<float> error_frac, read_frac, compute_frac;
};

Variants variants_of(const nb::sequence& given) {
  Variants v;
  for (const nb::handle one : given) {
    if (nb::isinstance<nb::str>(one)) {
      v.names.push_back(cast_to<std::string>(one, "a variant's name"));
      v.error_frac.push_back(0);
      v.read_frac.push_back(1);
      v.compute_frac.push_back(1);
      continue;
    }
    if (!nb::isinstance<nb::tuple>(one) && !nb::isinstance<nb::list>(one))
      throw nb::type_error(
          "a variant is a name or a tuple (name, error_frac, read_frac, compute_frac)");
    const nb::tuple fields = nb::tuple(nb::borrow(one));
    if (fields.size() < 1 || fields.size() > 4)
      throw nb::type_error(
          "a variant is a name or (name, error_frac, read_frac, compute_frac), the last may be "
          "missing");
    const auto number = [&](size_t i, float missing) {
      return fields.size() > i ? cast_to<float>(fields[i], "a variant's fraction") : missing;
    };
    v.names.push_back(cast_to<std::string>(fields[0], "a variant's name"));
    v.error_frac.push_back(number(1, 0));
    v.read_frac.push_back(number(2, 1));
    v.compute_frac.push_back(number(3, 1));
  }
  for (const std::string& name : v.names) v.pointers.push_back(name.c_str());
  return v;
}

Array ids(nb::handle from, const char* name) {
  Array array(from, name, {Type::kI32}, 1);
  array.expect_cpu(name);
  array.expect_contiguous(name);
  return array;
}

void make_layout(Layout* self, int32_t experts, const nb::sequence& variants, int32_t devices,
                 nb::handle expert, nb::handle variant, nb::handle device, nb::handle capacity) {
  const Variants v = variants_of(variants);
  const Array e = ids(expert, "expert"), which = ids(variant, "variant"),
              on = ids(device, "device"), most = ids(capacity, "capacity");
  auto options = sized<thermoe_layout_options>();
  options.experts = experts;
  options.devices = devices;
  options.variants = static_cast<int32_t>(std::min<size_t>(v.names.size(), 1 << 20));
  options.variant_names = v.pointers.data();
  options.variant_error_frac = v.error_frac.data();
  options.variant_read_frac = v.read_frac.data();
  options.variant_compute_frac = v.compute_frac.data();
  if (e) {
    if (e.rows() < 1 || e.rows() > INT32_MAX) raise_invalid("expert: give at least one instance");
    options.instances = static_cast<int32_t>(e.rows());
    options.expert = e.data<int32_t>();
    which.expect_shape("variant", {e.rows()});
    on.expect_shape("device", {e.rows()});
    options.variant = which.data<int32_t>();
    options.device = on.data<int32_t>();
  } else if (which || on) {
    throw nb::value_error("variant and device are of instances: give expert as well");
  }
  const int64_t count = e ? e.rows() : int64_t{experts} * options.variants;
  most.expect_shape("capacity", {count});
  options.capacity = most.data<int32_t>();
  thermoe_layout* handle = nullptr;
  check(thermoe_layout_create(&options, &handle));
  new (self) Layout{Handle<thermoe_layout, thermoe_layout_close>(handle), std::max(devices, 1)};
}

}  // namespace

Prices::Prices(nb::handle open_in, nb::handle slope_in, nb::handle device_open_in,
               nb::handle device_slope_in, nb::handle device_base_in)
    : open(floats(open_in, "open")),
      slope(floats(slope_in, "slope")),
      device_open(floats(device_open_in, "device_open")),
      device_slope(floats(device_slope_in, "device_slope")),
      device_base(floats(device_base_in, "device_base")) {
  open.expect_contiguous("open");
  slope.expect_contiguous("slope");
  device_open.expect_contiguous("device_open");
  device_slope.expect_contiguous("device_slope");
  device_base.expect_contiguous("device_base");
}

void Prices::expect(int64_t instances, int64_t devices) const {
  open.expect_shape("open", {instances});
  slope.expect_shape("slope", {instances});
  device_open.expect_shape("device_open", {instances});
  device_slope.expect_shape("device_slope", {instances});
  device_base.expect_shape("device_base", {devices});
}

Plan::Plan(int64_t tokens, int64_t slots, int64_t count)
    : Plan(numpy_empty({tokens, slots}, "int32"), numpy_empty({tokens, slots}, "int32"),
           numpy_empty({tokens, slots}, "float32"), numpy_empty({tokens}, "uint8"),
           numpy_empty({count + 1}, "int32"), numpy_empty({tokens * slots}, "int32"), nb::none()) {}

Plan::Plan(nb::handle ids_in, nb::handle instances_in, nb::handle weights_in, nb::handle changed_in,
           nb::handle offsets_in, nb::handle packed_in, nb::handle report_in)
    : ids(out_of(ids_in, "ids", Type::kI32, 2)),
      instances(out_of(instances_in, "instances", Type::kI32, 2)),
      weights(out_of(weights_in, "weights", Type::kF32, 2)),
      changed(out_of(changed_in, "changed", Type::kU8, 1)),
      offsets(out_of(offsets_in, "offsets", Type::kI32, 1)),
      packed(out_of(packed_in, "packed", Type::kI32, 1)),
      device_report(out_of(report_in, "device_report", Type::kU8, 1)) {
  ids.expect_contiguous("ids");
  instances.expect_contiguous("instances");
  weights.expect_contiguous("weights");
  changed.expect_contiguous("changed");
  offsets.expect_contiguous("offsets");
  packed.expect_contiguous("packed");
  device_report.expect_contiguous("device_report");
  device_report.expect_shape("device_report", {int64_t{sizeof(thermoe_device_report)}});
}

int32_t Plan::expect(int64_t tokens, int64_t k, int64_t instance_count) const {
  int64_t slots = k;
  for (const Array* array : {&ids, &instances, &weights})
    if (*array) slots = array->size(1);
  ids.expect_shape("out.ids", {tokens, slots});
  instances.expect_shape("out.instances", {tokens, slots});
  weights.expect_shape("out.weights", {tokens, slots});
  changed.expect_shape("out.changed", {tokens});
  offsets.expect_shape("out.offsets", {instance_count + 1});
  packed.expect_shape("out.packed", {tokens * slots});
  if (slots < 1 || slots > INT32_MAX)
    throw nb::value_error(("out: a plan of " + std::to_string(slots) + " slots a token").c_str());
  return static_cast<int32_t>(slots);
}

void Plan::expect_cpu() const {
  for (const Array* array : {&ids, &instances, &weights, &changed, &offsets, &packed})
    array->expect_cpu("out");
}

void Plan::expect_cuda(int device) const {
  for (const Array* array :
       {&ids, &instances, &weights, &changed, &offsets, &packed, &device_report})
    array->expect_cuda("out", device);
}

void bind_plan(nb::module_& m) {
  const auto none = nb::none();
  nb::class_<Layout>(m, "Layout")
      .def("__init__", make_layout, nb::arg("experts"), nb::arg("variants"), nb::kw_only(),
           nb::arg("devices") = 1, nb::arg("expert") = none, nb::arg("variant") = none,
           nb::arg("device") = none, nb::arg("capacity") = none)
      .def_prop_ro("instances", [](const Layout& l) { return thermoe_layout_instances(l.get()); });

  nb::class_<Prices>(m, "Prices")
      .def(nb::init<nb::handle, nb::handle, nb::handle, nb::handle, nb::handle>(),
           nb::arg("open") = none, nb::arg("slope") = none, nb::kw_only(),
           nb::arg("device_open") = none, nb::arg("device_slope") = none,
           nb::arg("device_base") = none)
      .def_prop_ro("open", [](const Prices& p) { return p.open.object(); })
      .def_prop_ro("slope", [](const Prices& p) { return p.slope.object(); })
      .def_prop_ro("device_open", [](const Prices& p) { return p.device_open.object(); })
      .def_prop_ro("device_slope", [](const Prices& p) { return p.device_slope.object(); })
      .def_prop_ro("device_base", [](const Prices& p) { return p.device_base.object(); });

  nb::class_<Report> report(m, "Report");
  def_fields(report, "Report", kReportFields);
  report.def_prop_ro("infeasible", [](const Report& r) { return r.infeasible != 0; })
      .def_ro("distinct_experts", &Report::distinct_experts)
      .def_ro("distinct_instances", &Report::distinct_instances)
      .def_ro("top_k_distinct_experts", &Report::top_k_distinct_experts)
      .def_ro("changed_tokens", &Report::changed_tokens)
      .def_ro("used_pairs", &Report::used_pairs);

  nb::class_<Plan>(m, "Plan")
      .def(nb::init<nb::handle, nb::handle, nb::handle, nb::handle, nb::handle, nb::handle,
                    nb::handle>(),
           nb::kw_only(), nb::arg("ids") = none, nb::arg("instances") = none,
           nb::arg("weights") = none, nb::arg("changed") = none, nb::arg("offsets") = none,
           nb::arg("packed") = none, nb::arg("device_report") = none)
      .def_prop_ro("ids", [](const Plan& p) { return p.ids.object(); })
      .def_prop_ro("instances", [](const Plan& p) { return p.instances.object(); })
      .def_prop_ro("weights", [](const Plan& p) { return p.weights.object(); })
      .def_prop_ro("changed", [](const Plan& p) { return p.changed.object(); })
      .def_prop_ro("offsets", [](const Plan& p) { return p.offsets.object(); })
      .def_prop_ro("packed", [](const Plan& p) { return p.packed.object(); })
      .def_prop_ro("device_report", [](const Plan& p) { return p.device_report.object(); })
      .def_prop_ro("report", [](const Plan& p) { return p.report; });
  bind_governor(m);
}

}  // namespace thermoe::python
