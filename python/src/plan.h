// What goes into a router and comes out of it: layouts, prices, plans.
#pragma once

#include "arrays.h"

namespace thermoe::python {

struct Layout {
  const thermoe_layout* get() const { return handle.get(); }

  Handle<thermoe_layout, thermoe_layout_close> handle;
  int32_t devices = 1;
};

// Arrays [I] of float32, each may be None.
struct Prices {
  Prices(nb::handle open_in, nb::handle slope_in, nb::handle device_open_in,
         nb::handle device_slope_in, nb::handle device_base_in);
  // Raises ValueError unless each has `instances` (the base: `devices`) entries.
  void expect(int64_t instances, int64_t devices) const;

  Array open, slope, device_open, device_slope, device_base;
};

// A plan's arrays, of the caller's or NumPy's.
struct Plan {
  // New NumPy arrays.
  Plan(int64_t tokens, int64_t slots, int64_t instances);
  // The caller's, each may be None. `report`: 48 bytes on the GPU, for plans made there.
  Plan(nb::handle ids_in, nb::handle instances_in, nb::handle weights_in, nb::handle changed_in,
       nb::handle offsets_in, nb::handle packed_in, nb::handle report_in);
  // Raises ValueError where a shape is not that of such a batch. The number of slots.
  int32_t expect(int64_t tokens, int64_t k, int64_t instance_count) const;
  void expect_cpu() const;
  void expect_cuda(int device) const;

  Array ids, instances, weights, changed, offsets, packed, device_report;
  thermoe_report report = sized<thermoe_report>();
};

void bind_governor(nb::module_& m);

}  // namespace thermoe::python
