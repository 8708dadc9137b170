#include "cost/latency_profile.h"

#include <fmt/format.h>

#include <algorithm>

#include "cost/profile_file.h"

namespace thermoe::cost {
namespace {

MeasuredLoad read_load(const ProfileNode& node, int experts) {
  MeasuredLoad load;
  load.distribution = node.text("distribution");
  load.tokens = node.positives("tokens");
  load.distinct_experts = node.positives("distinct_experts");
  load.latency_us = node.positives("latency_us");
  const size_t points = load.tokens.size();
  if (points < 2) node.fail("has fewer than two points");
  if (load.distinct_experts.size() != points || load.latency_us.size() != points)
    node.fail("tokens, distinct_experts and latency_us differ in length");
  for (size_t i = 1; i < points; ++i)
    if (load.tokens[i] <= load.tokens[i - 1]) node.fail(fmt::format("tokens[{}] doesn't rise", i));
  for (size_t i = 0; i < points; ++i)
    if (load.distinct_experts[i] > experts)
      node.fail(fmt::format("distinct_experts[{}] exceeds the {} experts", i, experts));
  return load;
}

MeasuredShape read_shape(const ProfileNode& node) {
  MeasuredShape shape;
  shape.hidden_size = node.count("hidden_size");
  shape.expert_inter_size = node.count("expert_inter_size");
  shape.experts = static_cast<int>(node.count("experts"));
  shape.top_k = static_cast<int>(node.count("top_k"));
  if (shape.top_k > shape.experts) node.fail("top_k exceeds experts");
  for (const ProfileNode& load : node.children("loads"))
    shape.loads.push_back(read_load(load, shape.experts));
  const auto balanced = std::find_if(shape.loads.begin(), shape.loads.end(), [](const auto& load) {
    return load.distribution == "balanced";
  });
  if (balanced == shape.loads.end()) node.fail("has no balanced load");
  if (balanced->distinct_experts.back() < shape.experts)
    node.fail("the balanced load never reaches every expert");
  for (size_t i = 1; i < balanced->tokens.size(); ++i)
    if (balanced->distinct_experts[i] < balanced->distinct_experts[i - 1])
      node.fail("distinct experts of the balanced load fall as tokens rise");
  std::rotate(shape.loads.begin(), balanced, balanced + 1);
  return shape;
}

}  // namespace

LatencyProfile read_latency_profile(const std::filesystem::path& file) {
  const ProfileNode node = ProfileNode::open(file, "thermoe-latency-profile");
  LatencyProfile profile;
  profile.device = node.text("device");
  profile.framework = node.text("framework");
  profile.kernel = node.text("kernel");
  if (node.text("dtype") != "bf16")
    node.fail(fmt::format("dtype \"{}\" is not supported, only bf16", node.text("dtype")));
  profile.tile_rows = node.positive("tile_rows");
  profile.power_file = file.parent_path() / node.text("power_profile");
  for (const ProfileNode& shape : node.children("shapes"))
    profile.shapes.push_back(read_shape(shape));
  return profile;
}

}  // namespace thermoe::cost
