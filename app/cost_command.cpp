// thermoe cost: what an operation costs on a device, or how well a profile predicts a whole table.
#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <filesystem>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>

#include "commands.h"
#include "device_peaks.h"
#include "paths.h"
#include "table.h"
#include "table_errors.h"
#include "table_plot.h"
#include "thermoe/digital_twin.h"
#include "thermoe/error.h"
#include "thermoe/kernel_cost_model.h"

namespace thermoe::app {
namespace {

struct CostOptions {
  std::string profile, csv, plot, json, operation = "experts", shape;
  KernelChoice choice;
  std::vector<double> tokens = {1, 16, 256, 4096};
  ExpertsQuery experts;
  LinearQuery linear;
  AttentionQuery attention;
  ElementwiseQuery elementwise;
  double context = 0, distinct = 0;
  std::optional<double> clock_mhz, temperature_c;
};

struct Estimate {
  double tokens = 0;
  CostEstimate cost;
};

bool has_kernel(const cost::KernelProfile& profile, const std::string& name) {
  return std::any_of(profile.kernels.begin(), profile.kernels.end(),
                     [&](const cost::MeasuredKernel& kernel) { return kernel.kernel == name; });
}

// The shipped profile whose kernels are those of the rows: same device, same operation, and where
// several have those, the one with the row's kernel, or the one with the most types.
cost::KernelProfile profile_for(const cost::MeasuredRow& row) {
  std::string known;
  std::optional<cost::KernelProfile> best;
  for (const std::filesystem::path& file : shipped_profiles()) {
    if (is_power_profile(file)) continue;
    cost::KernelProfile profile = cost::read_kernel_profile(file);
    const bool has_operation = profile.kernels.front().op == row.shape.op;
    if (profile.device == row.device && has_operation) {
      if (has_kernel(profile, row.kernel)) return profile;
      if (!best || profile.kernels.size() > best->kernels.size()) best = std::move(profile);
      continue;
    }
    known += fmt::format("{}{} ({}, {})", known.empty() ? "" : ", ", file.filename().string(),
                         profile.device, cost::name_of(profile.kernels.front().op));
  }
  if (best) return *best;
  throw ProfileMiss(fmt::format(
      "no shipped profile of \"{}\" for {}; name one with --profile, or make one with thermoe fit. "
      "Shipped: {}",
      row.device, cost::name_of(row.shape.op), known));
}

void run_table(const CostOptions& options) {
  const std::vector<cost::MeasuredRow> rows = cost::read_measured_table(options.csv);
  const cost::KernelProfile profile = options.profile.empty()
                                          ? profile_for(rows.front())
                                          : cost::read_kernel_profile(options.profile);
  if (profile.device != rows.front().device)
    throw InvalidArgument(fmt::format("{} was measured on \"{}\", the profile is of \"{}\"",
                                      options.csv, rows.front().device, profile.device));
  const TableErrors errors = table_errors(profile, rows);
  if (!options.json.empty()) {
    nlohmann::ordered_json json = {{"device", profile.device}, {"csv", options.csv}};
    json.update(to_json(errors));
    write_file(options.json, json.dump(2) + "\n");
  }
  if (!options.plot.empty())
    write_file(options.plot, plot_of(errors, profile.device + ": measured and predicted"));
  if (options.json != "-") fmt::print("{}", to_table(errors));
}

CostEstimate estimate_of(const CostOptions& options, const KernelCostModel& model, double tokens,
                         const HardwareState* state) {
  if (options.operation == "experts") {
    if (options.distinct > 0)
      return model.moe_layer({tokens, options.distinct, tokens * model.shape().top_k}, state);
    ExpertsQuery query = options.experts;
    query.tokens = tokens;
    return model.experts(query, state);
  }
  if (options.operation == "linear") {
    LinearQuery query = options.linear;
    query.tokens = tokens;
    return model.linear(query, state);
  }
  if (options.operation == "attention") {
    AttentionQuery query = options.attention;
    query.query_tokens = tokens;
    query.context_tokens = std::max(tokens, options.context);
    return model.attention(query, state);
  }
  if (options.operation == "elementwise") {
    ElementwiseQuery query = options.elementwise;
    query.tokens = tokens;
    return model.elementwise(query, state);
  }
  return model.dense_step(tokens, state, options.context);
}

std::string to_table(const std::vector<Estimate>& estimates) {
  Table table;
  table.header = {"tokens", "latency us", "+-",       "energy mJ", "power W",
                  "GB/s",   "TFLOP/s",    "bound by", "source"};
  for (const auto& [tokens, c] : estimates)
    table.rows.push_back({fmt::format("{}", tokens), fmt::format("{:.1f}", c.latency_us),
                          fmt::format("{:.0f} %", 100 * c.uncertainty_frac),
                          fmt::format("{:.2f}", c.energy_mj),
                          fmt::format("{:.0f}", c.energy_mj / c.latency_us * 1e3),
                          fmt::format("{:.0f}", c.bytes / c.latency_us * 1e-3),
                          fmt::format("{:.0f}", c.flops / c.latency_us * 1e-6), name_of(c.bound_by),
                          name_of(c.source)});
  return table.text();
}

nlohmann::ordered_json to_json(const std::vector<Estimate>& estimates) {
  nlohmann::ordered_json json = nlohmann::ordered_json::array();
  for (const auto& [tokens, c] : estimates)
    json.push_back({{"tokens", tokens},
                    {"latency_us", c.latency_us},
                    {"uncertainty_frac", c.uncertainty_frac},
                    {"energy_mj", c.energy_mj},
                    {"clock_bound_frac", c.clock_bound_frac},
                    {"bytes", c.bytes},
                    {"flops", c.flops},
                    {"bound_by", name_of(c.bound_by)},
                    {"source", name_of(c.source)}});
  return json;
}

// Sizes that were not given are the named shape's.
void fill_in(CostOptions& options, const CostShape& shape) {
  const auto otherwise = [](int64_t& value, int64_t known) { value = value > 0 ? value : known; };
  ExpertsQuery& e = options.experts;
  otherwise(e.hidden_size, shape.hidden_size);
  otherwise(e.expert_inter_size, shape.expert_inter_size);
  if (e.experts == 0) e.experts = shape.experts;
  if (e.top_k == 0) e.top_k = shape.top_k;
  otherwise(options.attention.heads, shape.heads);
  otherwise(options.attention.kv_heads, shape.kv_heads);
  otherwise(options.attention.head_dim, shape.head_dim);
  otherwise(options.linear.inputs, shape.hidden_size);
  otherwise(options.linear.outputs, shape.hidden_size);
  otherwise(options.elementwise.width, shape.hidden_size);
}

void run_query(CostOptions& options) {
  const CostShape& shape =
      options.shape.empty() ? known_cost_shapes().front() : cost_shape(options.shape);
  fill_in(options, shape);
  const std::filesystem::path file =
      options.profile.empty() ? shipped(kDefaultProfile) : std::filesystem::path(options.profile);
  const KernelCostModel model(file, shape, options.choice);
  HardwareState state;
  state.present = true;
  state.sm_clock_mhz = options.clock_mhz;
  state.temperature_c = options.temperature_c;
  const bool given = options.clock_mhz || options.temperature_c;
  std::vector<Estimate> estimates;
  estimates.reserve(options.tokens.size());
  for (double tokens : options.tokens)
    estimates.push_back({tokens, estimate_of(options, model, tokens, given ? &state : nullptr)});
  const nlohmann::ordered_json json = {{"device", model.device()},
                                       {"operation", options.operation},
                                       {"dtype", options.choice.dtype},
                                       {"estimates", to_json(estimates)}};
  if (!options.json.empty()) write_file(options.json, json.dump(2) + "\n");
  if (options.json != "-")
    fmt::print("{}, {}\n\n{}", model.device(), options.operation, to_table(estimates));
}

void add_sizes(CLI::App& command, CostOptions& o) {
  const auto size = CLI::Range(int64_t{1}, int64_t{1} << 31);
  const auto count = CLI::Range(1, 1 << 20);
  command.add_option("--hidden", o.experts.hidden_size, "experts: hidden size")->check(size);
  command.add_option("--inter", o.experts.expert_inter_size, "experts: width of one")->check(size);
  command.add_option("--experts", o.experts.experts, "experts: how many")->check(count);
  command.add_option("--top-k", o.experts.top_k, "experts: chosen by a token")->check(count);
  command.add_option("--tp", o.experts.tp, "experts: devices that share each")->check(count);
  command.add_option("--ep", o.experts.ep, "experts: groups of devices that share all of them")
      ->check(count);
  command
      .add_option("--distribution", o.experts.distribution,
                  "experts: load, balanced or power_law_<exponent>")
      ->capture_default_str();
  command
      .add_option("--distinct", o.distinct,
                  "experts: how many are read, instead of a load's; of the shape's whole layer")
      ->check(CLI::PositiveNumber);
  command.add_option("--inputs", o.linear.inputs, "linear: k")->check(size);
  command.add_option("--outputs", o.linear.outputs, "linear: n")->check(size);
  command.add_option("--sequences", o.attention.sequences, "attention: how many")
      ->check(CLI::PositiveNumber);
  command
      .add_option("--context", o.context,
                  "attention and dense-step: tokens in the KV cache of a sequence")
      ->check(CLI::NonNegativeNumber);
  command.add_option("--heads", o.attention.heads, "attention")->check(size);
  command.add_option("--kv-heads", o.attention.kv_heads, "attention")->check(size);
  command.add_option("--head-dim", o.attention.head_dim, "attention")->check(size);
  command.add_option("--width", o.elementwise.width, "elementwise: values a token")->check(size);
}

}  // namespace

void add_cost_command(CLI::App& program) {
  const auto o = std::make_shared<CostOptions>();
  CLI::App* command = program.add_subcommand(
      "cost",
      "What an operation costs on a device: latency, energy, and what they rest on. With "
      "--csv: how well a profile predicts a table of measurements");
  command->add_option("--profile", o->profile,
                      "cost profile of a device; default: the shipped H100's, with --csv that of "
                      "the table's device");
  command->add_option("--csv", o->csv,
                      "a table of measured kernels (docs/cost-model.md; may be gzip-compressed)");
  command->add_option("--plot", o->plot,
                      "with --csv: draw typical and bad shapes of each kernel into this SVG");
  command->add_option("--op", o->operation)
      ->description("experts, linear, attention, elementwise or dense-step (all but the experts)")
      ->check(CLI::IsMember({"experts", "linear", "attention", "elementwise", "dense-step"}))
      ->capture_default_str();
  command->add_option("--shape", o->shape, "a model whose sizes stand in for those not given");
  command->add_option("--tokens", o->tokens, "token counts (attention: query tokens a sequence)")
      ->delimiter(',')
      ->check(CLI::PositiveNumber)
      ->capture_default_str();
  command->add_option("--dtype", o->choice.dtype, "the experts' weights: bf16, fp8, int4, ...")
      ->capture_default_str();
  command->add_option("--kernel", o->choice.kernel, "the experts' kernel, as the profile names it");
  command->add_option("--clock-mhz", o->clock_mhz, "SM clock; default: the maximum")
      ->check(CLI::PositiveNumber);
  command->add_option("--temperature-c", o->temperature_c, "of the die, for leakage");
  add_sizes(*command, *o);
  command->add_option("--json", o->json, "write the result as JSON to this file; - for stdout");
  command->callback([o] { o->csv.empty() ? run_query(*o) : run_table(*o); });
}

}  // namespace thermoe::app
