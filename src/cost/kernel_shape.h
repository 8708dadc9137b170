// The shape of a measured operation along everything but tokens, and what is known of it: features
// to compare shapes by, and the roofline that its measured curve is held against.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace thermoe::cost {

inline constexpr double kActivationBytes = 2;  // a value: activations are bf16 in every table

enum class Operation { kExperts, kLinear };
const char* name_of(Operation op);

// One measured curve's shape. kExperts: an MoE layer's experts on one of `tp * ep` devices, with
// permutation and combine; kLinear: [tokens, k] times [k, n].
struct KernelShape {
  Operation op = Operation::kExperts;
  int64_t hidden_size = 0;     // kLinear: k
  int64_t inter_size = 0;      // of a whole expert, before tp; kLinear: n
  int experts = 1, top_k = 1;  // of the whole layer
  int tp = 1, ep = 1;
  double load_exponent = 0;  // moe_load.h

  bool operator==(const KernelShape&) const = default;
  int64_t local_inter() const { return inter_size / tp; }
  int local_experts() const { return experts / ep; }
};
// "2048x768 E=128 k=8 tp=1 ep=4 balanced", "n=768 k=2048"
std::string text_of(const KernelShape& shape);
// Matrices of one expert: 3 (gate, up, down), or 2 for the published models whose experts have no
// gate (Nemotron-H and Nemotron 3: ReLU^2), known by their sizes.
int projections_of(const KernelShape& shape);

// Logarithms of sizes and alignment, for comparing shapes; as many as lengths_of() has.
std::vector<double> features_of(const KernelShape& shape);
// Scale on which each feature matters, chosen by cross-validation (docs/cost-model.md).
std::vector<double> lengths_of(Operation op);

// A device's peaks for one kernel.
struct KernelPeaks {
  double bytes_per_us = 0;
  double flops_per_us = 0;  // at the kernel's arithmetic type
  double weight_bytes = 2;  // per stored weight, scales included
  // Inputs of an expert's product that the kernel takes at once, the last ones' padding too; 0: not
  // known.
  double stage_columns = 0;
};
// Throws InvalidArgument listing the known types ("bf16", "fp8", "fp8_block", "int4", ...).
KernelPeaks peaks_of(const std::string& dtype, double memory_bytes_per_s, double bf16_flops_per_s);

// What a roofline's parameters scale, in this order. All positive.
inline constexpr int kRooflineParameters = 10;
extern const char* const kRooflineNames[kRooflineParameters];
using RooflineParameters = std::vector<double>;
RooflineParameters roofline_start();

// Time of one operation by its parts, microseconds.
struct RooflineTime {
  double launch_us = 0;     // starting kernels, routing, permutation: neither bytes nor FLOPs
  double memory_us = 0;     // weights and activations at the attained bandwidth
  double compute_us = 0;    // tiles at the attained matrix rate
  double chain_us = 0;      // one tile's own chain of loads and products, however few there are
  double total_us = 0;      // launch + a smooth maximum of the other three
  double memory_share = 0;  // d log(total) / d log(memory): what the memory's speed sets
};
// The work behind it, for energy.
struct KernelWork {
  double bytes = 0, flops = 0;
};

// tokens may be fractional between two measured counts; the load is then interpolated.
struct KernelLoad {
  double tokens = 0, assignments = 0, distinct = 0, tile_rows = 0;
};
KernelLoad load_of(const KernelShape& shape, double tokens);
RooflineTime roofline(const KernelShape& shape, const KernelLoad& load, const KernelPeaks& peaks,
                      const RooflineParameters& parameters);
KernelWork work_of(const KernelShape& shape, const KernelLoad& load, const KernelPeaks& peaks);

}  // namespace thermoe::cost
