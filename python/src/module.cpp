// thermoe._core. python/thermoe/_core.pyi holds the signatures and what each raises.
#include "arrays.h"

NB_MODULE(_core, m) {
  nb::set_leak_warnings(false);  // a program may hold routers when it ends
  m.doc() = "thermoe's C interface, for Python; use it through the package thermoe.";
  m.def("version", [] { return thermoe_version(); });
  m.def("has_cuda", [] { return thermoe_has_cuda() != 0; });
  thermoe::python::bind_monitor(m);
  thermoe::python::bind_costs(m);
  thermoe::python::bind_plan(m);
  thermoe::python::bind_router(m);
  thermoe::python::bind_experts(m);
}
