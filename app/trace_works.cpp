#include "trace_works.h"

#include <fmt/format.h>

#include <charconv>
#include <string_view>
#include <vector>

#include "cost/profile_file.h"

namespace thermoe::app {
namespace {

constexpr cost::FileKind kFile{"list of works", "data/telemetry/works.json is one"};

// The number that `text` begins with, taken off it; nothing where there is none.
std::optional<double> take_number(std::string_view& text) {
  int64_t value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || value <= 0) return std::nullopt;
  text.remove_prefix(static_cast<size_t>(end - text.data()));
  return static_cast<double>(value);
}

}  // namespace

// The fields that a kind doesn't use stay zero.
struct TraceWorks::Entry {
  std::string kind, prefix;
  double element_bytes = 0, speed_frac = 0, flop_energy_frac = 0;  // gemm
  double bytes_per_s = 0;                                          // copy
  double hidden = 0, inter = 0, top_k = 0, tile_rows = 0;          // moe
  std::vector<double> distinct, latency_us;

  std::optional<TraceWork> gemm(std::string_view sizes, const TwinParameters& device) const;
  TraceWork copy() const;
  std::optional<TraceWork> moe(std::string_view sizes) const;
  double layer_us(double distinct_experts) const;
};

struct TraceWorks::Entries {
  std::vector<Entry> list;
};

TraceWorks::~TraceWorks() = default;

TraceWorks::TraceWorks(const std::filesystem::path& file) : entries_(std::make_unique<Entries>()) {
  const cost::ProfileNode root = cost::ProfileNode::open(file, "thermoe-trace-works", kFile);
  for (const cost::ProfileNode& node : root.children("works")) {
    Entry entry;
    entry.kind = node.text("kind");
    entry.prefix = node.text("prefix");
    if (entry.kind == "gemm") {
      entry.element_bytes = node.positive("element_bytes");
      entry.speed_frac = node.positive("speed_frac");
      entry.flop_energy_frac = node.positive("flop_energy_frac");
    } else if (entry.kind == "copy") {
      entry.bytes_per_s = node.positive("bytes_per_s");
    } else if (entry.kind == "moe") {
      entry.hidden = node.positive("hidden_size");
      entry.inter = node.positive("expert_inter_size");
      entry.top_k = node.positive("top_k");
      entry.element_bytes = node.positive("element_bytes");
      entry.tile_rows = node.positive("tile_rows");
      entry.distinct = node.positives("distinct_experts");
      entry.latency_us = node.positives("latency_us");
      if (entry.distinct.size() < 2 || entry.distinct.size() != entry.latency_us.size())
        node.fail("distinct_experts and latency_us need two values or more, as many of each");
      for (size_t i = 1; i < entry.distinct.size(); ++i)
        if (entry.distinct[i] <= entry.distinct[i - 1]) node.fail("distinct_experts don't rise");
    } else if (entry.kind != "idle") {
      node.fail(
          fmt::format("kind \"{}\" is not known; known are idle, gemm, copy, moe", entry.kind));
    }
    entries_->list.push_back(std::move(entry));
  }
}

// A square product of the size that the name ends in, at the device's sustained rate.
std::optional<TraceWork> TraceWorks::Entry::gemm(std::string_view sizes,
                                                 const TwinParameters& device) const {
  const auto n = take_number(sizes);
  if (!n || !sizes.empty()) return std::nullopt;
  TraceWork found;
  const double flops = 2 * *n * *n * *n;
  found.work.latency_us = flops / (device.tensor_flops_per_s * speed_frac) * 1e6;
  found.work.clock_bound_frac = 1;
  found.work.flops = flops * flop_energy_frac;  // counted in bf16's, for their energy
  found.work.bytes = 3 * element_bytes * *n * *n;
  return found;
}

TraceWork TraceWorks::Entry::copy() const {
  TraceWork found;
  found.work.latency_us = 1000;
  found.work.bytes = bytes_per_s * 1e-3;
  found.work.sm_active_frac = 0;
  return found;
}

// Linear between the measured points, and with the outermost slopes beyond them.
double TraceWorks::Entry::layer_us(double distinct_experts) const {
  size_t i = 1;
  while (i + 1 < distinct.size() && distinct_experts > distinct[i]) ++i;
  const double slope = (latency_us[i] - latency_us[i - 1]) / (distinct[i] - distinct[i - 1]);
  return latency_us[i] + slope * (distinct_experts - distinct[i]);
}

// "<tokens>_d<distinct>". Known as long as an expert's tokens fill one tile: then only reading
// takes time.
std::optional<TraceWork> TraceWorks::Entry::moe(std::string_view sizes) const {
  const auto tokens = take_number(sizes);
  if (!tokens || !sizes.starts_with("_d")) return std::nullopt;
  sizes.remove_prefix(2);
  const auto experts = take_number(sizes);
  if (!experts || !sizes.empty() || *tokens * top_k > tile_rows * *experts) return std::nullopt;
  TraceWork found;
  const double params = 3 * hidden * inter;
  found.work.latency_us = layer_us(*experts);
  if (found.work.latency_us <= 0) return std::nullopt;
  found.work.bytes = *experts * params * element_bytes;
  found.work.flops = *experts * tile_rows * 2 * params;
  return found;
}

std::optional<TraceWork> TraceWorks::find(const std::string& phase,
                                          const TwinParameters& device) const {
  for (const Entry& entry : entries_->list) {
    if (!phase.starts_with(entry.prefix)) continue;
    const std::string_view sizes = std::string_view(phase).substr(entry.prefix.size());
    if (entry.kind == "gemm") return entry.gemm(sizes, device);
    if (entry.kind == "moe") return entry.moe(sizes);
    if (entry.kind == "copy") return entry.copy();
    TraceWork idle;
    idle.idle = true;
    idle.work.sm_active_frac = 0;
    return idle;
  }
  return std::nullopt;
}

}  // namespace thermoe::app
