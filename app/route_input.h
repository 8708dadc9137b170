// What `thermoe route` reads: score matrices, prices, variants and placements, from files or the
// command line. Every function throws IoError naming the file, or InvalidArgument naming the flag
// or value, and says what to do.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "thermoe/expert_layout.h"
#include "thermoe/expert_prices.h"
#include "thermoe/views.h"

namespace thermoe::app {

// N batches of gate probabilities of T tokens over E experts.
struct ScoreBatches {
  int64_t batches = 0, tokens = 0, experts = 0;
  bool stacked = false;       // the file was [N, T, E], not [T, E]
  std::vector<float> values;  // [N, T, E] finite, >= 0

  ConstMatrix batch(int64_t n) const {
    return ConstMatrix(values.data() + n * tokens * experts, tokens, experts);
  }
};

// Reads an .npy file [T, E] or [N, T, E]; "-" is standard input. Router logits go through the
// model's own softmax, row by row. A value that is not finite, or a negative probability, is
// refused naming batch, token and expert; so is an array without elements.
ScoreBatches read_scores(const std::string& path, bool logits);

// "bf16,int8:0.004,int4:0.03:0.28": NAME[:ERROR_FRAC[:READ_FRAC]]. The error is 0 where it is left
// out; READ_FRAC the bits in the name (bf16, f16, fp8, int8, int4, ...) over those in the first's.
std::vector<ExpertVariant> parse_variants(std::string_view text);

// Where experts are, and what a device costs that is sent nothing.
struct Placement {
  int devices = 1;
  std::vector<std::vector<int32_t>> experts;  // [E] devices that hold a replica of it
  std::vector<int32_t> capacity;              // empty, or one for all, or [E], or [I]
  std::vector<float> device_base;             // empty or [devices]
};

// {"devices": G, "experts": [[0], [1], [0, 1]], "capacity": N or [..], "device_base": X or [..]},
// the last two optional; any other key is refused, as is another number of experts than `experts`.
Placement read_placement(const std::string& path, int experts);

// Every expert in every variant on each of its devices. Without variants, placement or capacity:
// none.
std::optional<ExpertLayout> make_layout(int experts, const std::vector<ExpertVariant>& variants,
                                        const std::optional<Placement>& placement,
                                        std::optional<int> capacity);

// A price as the user gave it: a number, or a file (.npy or JSON) of one number for each expert or
// each instance.
struct PriceOption {
  std::string flag;    // names it in errors
  std::string source;  // the number or the file; empty: no price
};

// The prices [I] of `option` (empty where there are none). One number, or one for each expert,
// reaches every instance of the expert, where `of_bytes` times the read_frac of its variant; one
// for each instance is taken as it is.
std::vector<float> read_prices(const PriceOption& option, int experts, const ExpertLayout* layout,
                               bool of_bytes);

}  // namespace thermoe::app
