// The measured latencies of one device, kernel and type: a file of data/profiles.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

namespace thermoe::cost {

// Latencies along tokens under one distribution of the load over experts. Tokens rise strictly.
struct MeasuredLoad {
  std::string distribution;  // "balanced", "power_law_1.2"
  std::vector<double> tokens;
  std::vector<double> distinct_experts;  // expected under the distribution
  std::vector<double> latency_us;
};

struct MeasuredShape {
  int64_t hidden_size = 0, expert_inter_size = 0;
  int experts = 0, top_k = 0;
  std::vector<MeasuredLoad> loads;  // the balanced one first
};

struct LatencyProfile {
  std::string device, framework, kernel;
  double tile_rows = 0;  // least rows that the kernel computes per expert
  std::filesystem::path power_file;
  std::vector<MeasuredShape> shapes;
};

// Throws IoError naming the file and the field.
LatencyProfile read_latency_profile(const std::filesystem::path& file);

}  // namespace thermoe::cost
