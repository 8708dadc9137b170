#include <fmt/format.h>

#include "cost/profile_file.h"
#include "thermoe/digital_twin.h"

namespace thermoe {
namespace {

// The orders without which the models have no meaning.
void check(const cost::ProfileNode& node, const TwinParameters& p) {
  if (!(p.clock_min_mhz <= p.clock_knee_mhz && p.clock_knee_mhz < p.clock_max_mhz))
    node.fail("clocks must rise: clock_min_mhz <= clock_knee_mhz < clock_max_mhz");
  if (p.voltage_floor_frac > 1) node.fail("voltage_floor_frac exceeds 1");
  if (p.idle_w >= p.power_limit_w) node.fail("idle_w is not below power_limit_w");
  if (p.slowdown_c <= p.inlet_c) node.fail("slowdown_c is not above inlet_c");
  if (p.hardware_slowdown_c < p.slowdown_c) node.fail("hardware_slowdown_c is below slowdown_c");
}

}  // namespace

TwinParameters read_twin_parameters(const std::filesystem::path& file) {
  const cost::ProfileNode root = cost::ProfileNode::open(file, "thermoe-power-profile");
  const cost::ProfileNode node = root.child("parameters");
  TwinParameters p;
  p.device = root.text("device");
  p.clock_max_mhz = node.positive("clock_max_mhz");
  p.clock_min_mhz = node.positive("clock_min_mhz");
  p.clock_knee_mhz = node.positive("clock_knee_mhz");
  p.idle_w = node.positive("idle_w");
  p.power_limit_w = node.positive("power_limit_w");
  p.sm_active_w = node.positive("sm_active_w");
  p.energy_per_byte_pj = node.positive("energy_per_byte_pj");
  p.energy_per_flop_pj = node.positive("energy_per_flop_pj");
  p.voltage_floor_frac = node.positive("voltage_floor_frac");
  p.leakage_w_per_c = node.positive("leakage_w_per_c");
  p.leakage_reference_c = node.number("leakage_reference_c");
  p.fast_resistance_c_per_w = node.positive("fast_resistance_c_per_w");
  p.fast_time_constant_s = node.positive("fast_time_constant_s");
  p.slow_resistance_c_per_w = node.positive("slow_resistance_c_per_w");
  p.slow_time_constant_s = node.positive("slow_time_constant_s");
  p.inlet_c = node.number("inlet_c");
  p.slowdown_c = node.positive("slowdown_c");
  p.hardware_slowdown_c = node.positive("hardware_slowdown_c");
  p.memory_bytes_per_s = node.positive("memory_bytes_per_s");
  p.tensor_flops_per_s = node.positive("tensor_flops_per_s");
  check(node, p);
  return p;
}

}  // namespace thermoe
