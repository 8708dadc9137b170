// Which settings of which policies a frontier measures.
#pragma once

#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "thermoe/routing_policies.h"

namespace thermoe::app {

// One setting, and where it was asked for ("sweep.txt: line 3"), for messages.
struct SweptPolicy {
  std::string specification, origin;
};

// A specification whose values may be several: "oea:k0=2..7", "topp:p=0.5..0.9..0.1" (first, last,
// step; without a step 1), "adaptive:open=0.01,0.02,power=1,2", as specifications with one value
// each, in the order written, the last parameter running fastest. Throws InvalidArgument for a
// range that is none, or for more than 10,000 specifications.
std::vector<std::string> expand_specification(std::string_view text);

// Every argument is a file of such lines (# begins a comment) where one of that name exists, else a
// line itself. Plain top-k stands first, whether asked for or not; what is asked for twice is there
// once. Throws IoError, or InvalidArgument naming file and line.
std::vector<SweptPolicy> read_sweep(std::span<const std::string> arguments);

// Every policy that the registry has and a batch of `batch` tokens over `experts` experts, `k`
// each, gives something to do, each over its useful range: from half of the experts that such a
// batch reads to all of them. Policies that need a calibration are in only where there is one,
// those that choose precisions where there is such a choice; those that only choose replicas are
// out.
std::vector<SweptPolicy> default_sweep(int experts, int k, int batch, bool calibrated,
                                       bool precisions = false);

// Makes every policy and has it route `batch` tokens' random scores, so that a setting that cannot
// work is found before hours of work. `layout`, of MoE layer `layer`, may be null. Throws
// InvalidArgument naming the origin.
void check_sweep(std::span<const SweptPolicy> sweep, int experts, int k, int batch,
                 const PolicyContext& context, const ExpertLayout* layout = nullptr, int layer = 0);

// Whether the setting's policy does nothing without a choice between instances.
bool needs_choice(std::string_view specification);

// "oea" of "oea:k0=4".
std::string policy_name(std::string_view specification);

// Which curve a setting belongs to: its policy, but "oea+raw" of "oea:k0=4,weights=raw": a
// published choice of experts with this project's weights is neither the one nor the other. With
// other variants than bf16 these are named: "oea@int8,int4".
std::string series_name(std::string_view specification, std::string_view variants = "bf16");

}  // namespace thermoe::app
