// KernelCostModel: what an MoE layer and a decode step cost on a device, from measured tables.
#pragma once

#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "thermoe/hardware_state.h"

namespace thermoe {

struct TwinParameters;  // digital_twin.h

// A published model's MoE shape, and what is needed to charge its whole decode step.
struct CostShape {
  std::string name;  // "qwen3-30b-a3b"
  int64_t hidden_size = 0;
  int64_t expert_inter_size = 0;
  int experts = 0;
  int top_k = 0;
  int layers = 0;                      // MoE layers
  int64_t dense_params_per_layer = 0;  // attention projections, gate and norms
  int64_t head_params = 0;             // the output projection
};
// Shapes known by name; the first is the default. Every one is covered by a shipped profile.
const std::vector<CostShape>& known_cost_shapes();
// Throws InvalidArgument listing the known names.
const CostShape& cost_shape(const std::string& name);

// The work of one MoE layer in one step, in the cost shape's own experts. Fractions are allowed: a
// stand-in model's expert may stand for several.
struct MoeWork {
  double tokens = 0;
  double distinct_experts = 0;  // experts whose weights are read
  double assignments = 0;       // token-expert pairs
};

enum class BoundBy { kMemory, kCompute, kOverhead };
enum class CostSource { kMeasured, kInterpolated, kTransferred, kRoofline };
const char* name_of(BoundBy bound);
const char* name_of(CostSource source);

struct CostEstimate {
  double latency_us = 0;
  double energy_mj = 0;         // of the board, idle power included
  double clock_bound_frac = 0;  // part of latency_us that is proportional to 1 / SM clock
  double sm_active_frac = 1;    // part of latency_us in which SMs work: 0 for a copy engine's copy
  double bytes = 0;             // HBM traffic
  double flops = 0;             // executed, padding of the tiles included
  BoundBy bound_by = BoundBy::kMemory;
  CostSource source = CostSource::kInterpolated;
  double uncertainty_frac = 0;  // of latency_us, one standard deviation
};

// The routing program's view of a layer (docs/theory.md): convex, in distinct experts and
// assignments. latency = c0_us + open_us * distinct + slope_us * assignments; energy alike. All
// coefficients >= 0.
struct CostSurrogate {
  double c0_us = 0, open_us = 0, slope_us = 0;
  double c0_mj = 0, open_mj = 0, slope_mj = 0;
  double fit_error_frac = 0;  // mean absolute relative error of the latency over the fitted points
  // How far the latency lies above its own convex envelope, at most, as distinct experts vary at
  // the batch's full assignments: what no convex program can express (docs/theory-costs.md).
  double envelope_gap_frac = 0;
};

// Immutable after construction; all const calls may run on any thread.
class KernelCostModel {
 public:
  // The profile (data/profiles/*.json) of a device and expert type; the device's power parameters
  // are read from the file that it names, beside it. Throws IoError naming the file and the field
  // for one that is no profile, ProfileMiss where it has no rows for `shape`, listing what it has.
  KernelCostModel(const std::filesystem::path& profile_file, const CostShape& shape);
  ~KernelCostModel();
  KernelCostModel(KernelCostModel&&) noexcept;

  const CostShape& shape() const;
  const std::string& device() const;    // as in the profile
  const TwinParameters& power() const;  // of that device, from the file that the profile names
  // The experts of one MoE layer, permutation and combine included (the gate is in dense_step).
  // With a state, at its SM clock and temperature; without, at the clock of the measurement.
  // Nondecreasing in each component of `work`; fewer assignments than distinct experts count as one
  // each. No distinct experts: no work, all zero. Throws InvalidArgument on work that is negative
  // or not finite, or more distinct experts than exist.
  CostEstimate moe_layer(const MoeWork& work, const HardwareState* state = nullptr) const;
  // Everything else of one decode step over all layers (attention's projections, gate, norms, head)
  // without reading the KV cache, from a roofline: source says so.
  CostEstimate dense_step(double tokens, const HardwareState* state = nullptr) const;
  // A least-squares fit of moe_layer at `tokens` tokens over the distinct experts and assignments
  // that these can reach, nonnegative coefficients.
  CostSurrogate surrogate(double tokens, const HardwareState* state = nullptr) const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace thermoe
