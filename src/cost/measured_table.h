// Tables of measured kernels in the CSV format of ai-dynamo/aiconfigurator, gzip-compressed or not.
#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "cost/kernel_shape.h"

namespace thermoe::cost {

struct MeasuredRow {
  KernelShape shape;
  std::string kernel, framework, device, dtype, distribution;
  double tokens = 0;
  double latency_us = 0;
  double power_w = 0, power_limit_w = 0;  // 0: not measured
};

// The columns, in any order: framework, version, device, op_name (moe or gemm), kernel_source,
// latency (ms), power and power_limit (W, optional); for moe moe_dtype, num_tokens, hidden_size,
// inter_size, topk, num_experts, moe_tp_size, moe_ep_size, distribution; for gemm gemm_dtype, m, n,
// k. Throws IoError naming the file, the line and the column.
std::vector<MeasuredRow> read_measured_table(const std::filesystem::path& file);

}  // namespace thermoe::cost
