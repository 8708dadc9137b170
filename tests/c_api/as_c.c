#include "as_c.h"

#include <string.h>

_Static_assert(sizeof(thermoe_device_report) == 48, "the device report never changes its size");
_Static_assert(sizeof(thermoe_status) == 4, "a status is an int32_t");

size_t c_size_of_batch(void) { return sizeof(thermoe_batch); }
size_t c_size_of_device_batch(void) { return sizeof(thermoe_device_batch); }

thermoe_status route_in_c(int32_t* ids, thermoe_report* report) {
  static const float scores[6] = {0.5f, 0.3f, 0.2f, 0.1f, 0.2f, 0.7f};
  const thermoe_router_options options = {
      .struct_size = sizeof options, .experts = 3, .k = 2, .policy = "topk"};
  thermoe_router* router = NULL;
  thermoe_status status = thermoe_router_create(&options, &router);
  if (status != THERMOE_OK) return status;
  const thermoe_batch batch = {.struct_size = sizeof batch, .scores = scores, .tokens = 2};
  const thermoe_plan plan = {.struct_size = sizeof plan, .ids = ids};
  memset(report, 0, sizeof *report);
  report->struct_size = sizeof *report;
  status = thermoe_router_plan(router, &batch, &plan, report);
  thermoe_router_close(router);
  return status;
}
