// In place of what compile.py writes where the build found no Triton.
#include "kernels/triton/compiled_kernels.h"

namespace thermoe::triton {

const KernelSet& built_in_kernels() {
  static const KernelSet none{
      .triton_version = {},
      .sources_crc32 = {},
      .problem =
          "this build has no Triton kernels; install triton==3.6.0 for the Python that the "
          "build finds (-DTHERMOE_TRITON_PYTHON=...) and configure again",
      .kernels = {}};
  return none;
}

}  // namespace thermoe::triton
