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
  int layers = 0;  // MoE layers
  int64_t heads = 0, kv_heads = 0, head_dim = 0;
  bool qk_norm = false;           // a norm per head of queries and keys
  int64_t shared_inter_size = 0;  // of an expert that every token takes; 0: none
  int64_t vocabulary = 0;
  int64_t dense_params_per_layer() const;  // attention projections, gate, shared expert and norms
  int64_t head_params() const { return vocabulary * hidden_size; }
};
// Shapes known by name; the first is the default.
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
// Adds `times` repetitions of `part`, one after the other: time, energy, bytes and FLOPs add up,
// clock_bound_frac and uncertainty_frac as the shares of time they are (errors taken as fully
// correlated), bound_by and source are those of whatever takes longest (the weaker source on a
// tie).
void add(CostEstimate& sum, const CostEstimate& part, double times = 1);

// --- Single operations --------------------------------------------------------------------------

// The experts of an MoE layer on one of tp * ep devices, permutation and combine included. Loads as
// in the measured tables: "balanced", or "power_law_<exponent>" (the busiest device's then).
struct ExpertsQuery {
  int64_t hidden_size = 0, expert_inter_size = 0;  // of a whole expert
  int experts = 0, top_k = 0;                      // of the whole layer
  int tp = 1, ep = 1;
  double tokens = 1;
  std::string distribution = "balanced";
};
// [tokens, inputs] times [inputs, outputs]: projections, the gate, the head.
struct LinearQuery {
  double tokens = 1;
  int64_t inputs = 0, outputs = 0;
};
// Attention without its projections. Decode: one query token a sequence; prefill: many, causal.
struct AttentionQuery {
  double sequences = 1, query_tokens = 1;
  double context_tokens = 1;  // keys that the last query token sees
  int64_t heads = 0, kv_heads = 0, head_dim = 0;
  double kv_bytes_per_value = 2;
};
// Norms, activations, residuals: `reads` and `writes` vectors of `width` bf16 values a token.
struct ElementwiseQuery {
  double tokens = 1;
  int64_t width = 0;
  int reads = 1, writes = 1;
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

// Which measured kernel of a profile's to use.
struct KernelChoice {
  std::string dtype = "bf16";  // of the experts' weights: "fp8", "fp8_block", "int4", ...
  std::string kernel;          // as the profile names it; empty: that type's best-measured one
};

// Constant to its users; all const calls may run on any thread. Construction takes up to a tenth of
// a second, and up to a second where the shape was not measured, as does the first query of another
// shape or token count that was not.
class KernelCostModel {
 public:
  // The profile (data/profiles/*.json) of a device; the device's power parameters and its table of
  // dense products are read from the files that it names, beside it. Throws IoError naming the file
  // and the field for one that is no profile; ProfileMiss where it has no kernel of that type,
  // listing what it has.
  KernelCostModel(const std::filesystem::path& profile_file, const CostShape& shape,
                  const KernelChoice& choice = {});
  ~KernelCostModel();
  KernelCostModel(KernelCostModel&&) noexcept;

  const CostShape& shape() const;
  const std::string& device() const;  // as in the profile
  // Of that device, from the file that the profile names. ProfileMiss where it names none: energies
  // are then those that were measured, or 0, and a state changes nothing.
  const TwinParameters& power() const;

  // One operation, by the measured tables (docs/cost-model.md): exactly at a measured point,
  // between measured token counts along the curve, at another shape carried over in efficiency
  // against the roofline; `source` tells which. Attention and elementwise are rooflines. With a
  // state, at its SM clock and temperature; without, at the clock of the measurement. Throw
  // InvalidArgument on sizes that are not positive and finite or don't divide, and on more than 1e7
  // tokens of a table's.
  CostEstimate experts(const ExpertsQuery& query, const HardwareState* state = nullptr) const;
  // ProfileMiss where the profile names no table of dense products.
  CostEstimate linear(const LinearQuery& query, const HardwareState* state = nullptr) const;
  CostEstimate attention(const AttentionQuery& query, const HardwareState* state = nullptr) const;
  CostEstimate elementwise(const ElementwiseQuery& query,
                           const HardwareState* state = nullptr) const;

  // The experts of one of the shape's layers, on one device, by what a routing plan reads. With a
  // state, at its SM clock and temperature; without, at the clock of the measurement. Nondecreasing
  // in each component of `work`; fewer assignments than distinct experts count as one each. No
  // distinct experts: no work, all zero. Throws InvalidArgument on work that is negative or not
  // finite, or more distinct experts than exist.
  CostEstimate moe_layer(const MoeWork& work, const HardwareState* state = nullptr) const;
  // Everything else of one decode step over all layers: projections, gate, norms, head, and where
  // context_tokens is given the attention over a KV cache of that many tokens a sequence. From
  // linear(), attention() and elementwise(); without a table of dense products from a roofline.
  CostEstimate dense_step(double tokens, const HardwareState* state = nullptr,
                          double context_tokens = 0) const;
  // A least-squares fit of moe_layer at `tokens` tokens over the distinct experts and assignments
  // that these can reach, nonnegative coefficients.
  CostSurrogate surrogate(double tokens, const HardwareState* state = nullptr) const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace thermoe
