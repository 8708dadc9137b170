// What as_c.c, which is C, offers to the tests.
#pragma once

#include "thermoe/c_api.h"

#ifdef __cplusplus
extern "C" {
#endif

// Routes 2 tokens over 3 experts, k = 2, by "topk", into `ids` [2, 2]; the first status that isn't
// OK.
thermoe_status route_in_c(int32_t* ids, thermoe_report* report);
// sizeof of structs as C sees them.
size_t c_size_of_batch(void);
size_t c_size_of_device_batch(void);

#ifdef __cplusplus
}
#endif
