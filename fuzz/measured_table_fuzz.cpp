// A table of measured kernels from any bytes.
#include <unistd.h>

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <string>

#include "cost/measured_table.h"
#include "thermoe/error.h"

// The parser reads files: one in memory stands in.
extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static const std::string path = "/dev/shm/thermoe_fuzz_table_" + std::to_string(::getpid());
  std::FILE* file = std::fopen(path.c_str(), "wb");
  if (file == nullptr) std::abort();
  std::fwrite(data, 1, size, file);
  std::fclose(file);
  try {
    for (const thermoe::cost::MeasuredRow& row : thermoe::cost::read_measured_table(path)) {
      // What the fit relies on.
      const thermoe::cost::KernelShape& s = row.shape;
      if (!(row.tokens >= 1) || !(row.latency_us > 0) || !std::isfinite(row.power_w) ||
          s.hidden_size < 1 || s.inter_size % s.tp != 0 || s.experts % s.ep != 0 ||
          s.top_k > s.experts)
        std::abort();
    }
  } catch (const thermoe::IoError&) {  // the one way to refuse a file
  }
  std::remove(path.c_str());
  return 0;
}
