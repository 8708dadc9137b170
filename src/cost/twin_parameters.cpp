#include <fmt/format.h>

#include "cost/profile_file.h"
#include "thermoe/digital_twin.h"
#include "thermoe/error.h"

namespace thermoe {
namespace {

// The orders without which the models have no meaning.
void check(const cost::ProfileNode& node, const TwinParameters& p) {
  if (!(p.clock_min_mhz <= p.clock_knee_mhz && p.clock_knee_mhz < p.clock_max_mhz))
    node.fail("clocks must rise: clock_min_mhz <= clock_knee_mhz < clock_max_mhz");
  if (p.voltage_floor_frac > 1) node.fail("voltage_floor_frac exceeds 1");
  if (p.idle_w >= p.power_limit_w) node.fail("idle_w is not below power_limit_w");
  if (p.slowdown_c <= p.thermal.inlet_c) node.fail("slowdown_c is not above inlet_c");
  if (p.hardware_slowdown_c < p.slowdown_c) node.fail("hardware_slowdown_c is below slowdown_c");
}

ThermalParameters read_thermal(const cost::ProfileNode& node) {
  ThermalParameters thermal;
  for (const cost::ProfileNode& pole : node.children("thermal_poles"))
    thermal.poles.push_back(
        {pole.positive("resistance_c_per_w"), pole.positive("time_constant_s")});
  thermal.memory_bypass_frac = node.number("memory_bypass_frac");
  thermal.inlet_c = node.number("inlet_c");
  try {
    ThermalModel{thermal};
  } catch (const InvalidArgument& error) {
    node.fail(error.what());
  }
  return thermal;
}

// Absolute temperatures, or margins to margin_zero_c as newer drivers tell them.
void read_thresholds(const cost::ProfileNode& node, TwinParameters& p) {
  if (!node.has("margin_zero_c")) {
    p.slowdown_c = node.positive("slowdown_c");
    p.hardware_slowdown_c = node.positive("hardware_slowdown_c");
    return;
  }
  p.margin_zero_c = node.number("margin_zero_c");
  p.slowdown_c = *p.margin_zero_c - node.number("slowdown_margin_c");
  p.hardware_slowdown_c = *p.margin_zero_c - node.number("hardware_slowdown_margin_c");
}

void read_fitted_rows(const cost::ProfileNode& provenance, TwinParameters& p) {
  if (!provenance.has("thermal_fit")) return;
  const cost::ProfileNode fit = provenance.child("thermal_fit");
  p.fitted_trace = fit.text("trace");
  const std::vector<double> bounds = fit.pairs("rows_s");
  for (size_t i = 0; i < bounds.size(); i += 2)
    p.fitted_rows_s.emplace_back(bounds[i], bounds[i + 1]);
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
  p.thermal = read_thermal(node);
  read_thresholds(node, p);
  if (node.has("share_sensor_w_per_c")) {
    p.share_sensor_offset = node.number("share_sensor_offset");
    p.share_sensor_w_per_c = node.number("share_sensor_w_per_c");
  }
  read_fitted_rows(root.child("provenance"), p);
  p.memory_bytes_per_s = node.positive("memory_bytes_per_s");
  p.tensor_flops_per_s = node.positive("tensor_flops_per_s");
  check(node, p);
  return p;
}

}  // namespace thermoe
