// ExpertLayout: in which precisions and on which devices a layer's experts can be had.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

namespace thermoe {

// A precision that experts are kept in.
struct ExpertVariant {
  std::string name;        // "bf16", "int8", "int4", "fp8"
  float error_frac = 0;    // measured relative error of an expert's output, see UtilityModel
  float read_frac = 1;     // bytes that opening it reads, of what the original bf16 would read
  float compute_frac = 1;  // time of a token's arithmetic in it, of bf16's
};

// One expert in one variant on one device. Two devices that hold the same variant are replicas.
struct ExpertInstance {
  int32_t expert = 0;
  int32_t variant = 0;
  int32_t device = 0;
};

// What a layer's routing may choose from. A token uses at most one instance of an expert.
struct ExpertLayout {
  int experts = 0;
  int devices = 1;
  std::vector<ExpertVariant> variants;    // at least one; the first is the checkpoint's own
  std::vector<ExpertInstance> instances;  // [I] by expert, then variant, then device; every expert
                                          // has at least one and at most kMaxInstances
  std::vector<int32_t> first;             // [E + 1] expert e: instances first[e] .. first[e+1] - 1
  std::vector<int32_t> capacity;          // [I] most tokens of a batch; empty: no limit
  std::vector<float> error_frac;          // [I] measured for each expert; empty: its variant's

  // Instances of one expert: what the certificate can try all subsets of.
  static constexpr int kMaxInstances = 8;

  int count() const { return static_cast<int>(instances.size()); }
  std::span<const ExpertInstance> of(int expert) const {
    const size_t e = static_cast<size_t>(expert);
    return {instances.data() + first[e], static_cast<size_t>(first[e + 1] - first[e])};
  }
  float error_of(int instance) const {
    const size_t i = static_cast<size_t>(instance);
    return error_frac.empty() ? variant_of(instance).error_frac : error_frac[i];
  }
  const ExpertVariant& variant_of(int instance) const {
    return variants[static_cast<size_t>(instances[static_cast<size_t>(instance)].variant)];
  }
  // Every expert has exactly one instance, which then is number `expert`.
  bool one_each() const { return count() == experts; }
  // More than one instance of some expert, a variant with an error, or a capacity: what plain top-k
  // over experts knows nothing of.
  bool plain() const;

  // Every expert once, exact, on one device.
  static ExpertLayout single(int experts);
  // Every expert in every variant on one device.
  static ExpertLayout with_variants(int experts, std::vector<ExpertVariant> variants);
  // Sorts `instances` and fills `first`. Throws InvalidArgument, naming the expert or index: ids
  // out of range, an expert with no instance or more than kMaxInstances, the same instance twice,
  // an error_frac outside [0, 1), a read_frac that is negative or not finite, no variant.
  static ExpertLayout of_instances(int experts, int devices, std::vector<ExpertVariant> variants,
                                   std::vector<ExpertInstance> instances);
};

}  // namespace thermoe
