#include <fmt/format.h>

#include "kernels/cuda/routing.h"
#include "thermoe/error.h"

namespace thermoe::cuda {

void check_report(const GpuRoutingReport& report) {
  if (report.bad_token < 0) return;
  if (report.bad_expert < 0)
    throw InvalidArgument(fmt::format(
        "all scores of token {} are zero: nothing says where it should go", report.bad_token));
  throw InvalidArgument(fmt::format(
      "score of token {}, expert {} is not finite or negative; look for damaged weights "
      "or an overflow before the router",
      report.bad_token, report.bad_expert));
}

}  // namespace thermoe::cuda
