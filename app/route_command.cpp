// thermoe route: plans for score matrices from outside.
#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <chrono>
#include <memory>

#include "commands.h"
#include "paths.h"
#include "progress.h"
#include "route_input.h"
#include "route_report.h"
#include "thermoe/error.h"
#include "thermoe/routing_policies.h"

namespace thermoe::app {
namespace {

struct RouteOptions {
  std::string logits, scores;
  int k = 0, min_k = 0;
  bool no_renormalize = false;
  std::string policy = "adaptive";
  std::string variants, placement;
  std::optional<int> capacity;
  PriceOption open{"--open-price", ""}, slope{"--slope-price", ""};
  PriceOption device_open{"--device-open-price", ""}, device_slope{"--device-slope-price", ""};
  std::optional<double> max_loss_frac, cost_budget;
  int repeat = 1;
  std::string json, out;
  bool no_plans = false;
};

// Everything that a request looks at.
struct RouteJob {
  ScoreBatches scores;
  std::vector<ExpertVariant> variants;
  std::optional<ExpertLayout> layout;
  std::optional<ExpertPrices> prices;  // none: the policy's own
  std::optional<RoutingGoal> goal;
};

std::optional<ExpertPrices> read_all_prices(const RouteOptions& options, const RouteJob& job,
                                            const std::optional<Placement>& placement) {
  const int experts = static_cast<int>(job.scores.experts);
  const auto read = [&](const PriceOption& option, bool of_bytes) {
    return read_prices(option, experts, job.layout ? &*job.layout : nullptr, of_bytes);
  };
  ExpertPrices prices{.open = read(options.open, true),
                      .slope = read(options.slope, false),
                      .device_open = read(options.device_open, true),
                      .device_slope = read(options.device_slope, false),
                      .device_base = {}};
  if (placement) prices.device_base = placement->device_base;
  const bool none = prices.open.empty() && prices.slope.empty() && prices.device_open.empty() &&
                    prices.device_slope.empty() && prices.device_base.empty();
  return none ? std::nullopt : std::optional(std::move(prices));
}

RouteJob read_job(const RouteOptions& options) {
  const bool logits = !options.logits.empty();
  if (logits == !options.scores.empty())
    throw InvalidArgument("give the scores to route: --logits FILE.npy or --scores FILE.npy");
  RouteJob job;
  job.scores = read_scores(logits ? options.logits : options.scores, logits);
  const int experts = static_cast<int>(job.scores.experts);
  if (options.k > experts)
    throw InvalidArgument(
        fmt::format("--k {}: the scores have {} experts, give at most that", options.k, experts));
  if (options.min_k > options.k)
    throw InvalidArgument(
        fmt::format("--min-k {}: it must be at most k, {}", options.min_k, options.k));
  if (!options.variants.empty()) job.variants = parse_variants(options.variants);
  std::optional<Placement> placement;
  if (!options.placement.empty()) placement = read_placement(options.placement, experts);
  job.layout = make_layout(experts, job.variants, placement, options.capacity);

  job.prices = read_all_prices(options, job, placement);
  if (options.max_loss_frac)
    job.goal = {RoutingGoal::Kind::kLeastCost, 1.0 - *options.max_loss_frac};
  if (options.cost_budget) job.goal = {RoutingGoal::Kind::kBestQuality, *options.cost_budget};
  return job;
}

// Routes every batch, in order, `repeat` times over. Of several passes the first warms up and is
// not timed.
std::vector<RoutedBatch> route_all(const RouteOptions& options, const RouteJob& job,
                                   RoutingPolicy& policy) {
  std::vector<RoutedBatch> routed(static_cast<size_t>(job.scores.batches));
  const double solves = static_cast<double>(routed.size()) * options.repeat;
  Progress progress("route", solves, "batches");
  RoutingRequest request;
  request.k = options.k;
  request.min_k = options.min_k;
  request.renormalize = !options.no_renormalize;
  request.prices = job.prices ? &*job.prices : nullptr;
  request.layout = job.layout ? &*job.layout : nullptr;
  request.goal = job.goal;
  double done = 0;
  for (int pass = 0; pass < options.repeat; ++pass) {
    for (size_t n = 0; n < routed.size(); ++n) {
      request.scores = job.scores.batch(static_cast<int64_t>(n));
      const auto start = std::chrono::steady_clock::now();
      policy.route(request, routed[n].plan);
      const std::chrono::duration<double, std::micro> took =
          std::chrono::steady_clock::now() - start;
      if (pass > 0 || options.repeat == 1) routed[n].solve_us.push_back(took.count());
      progress.update(++done);
    }
  }
  return routed;
}

nlohmann::ordered_json layout_json(const RouteJob& job) {
  nlohmann::ordered_json variants = nlohmann::ordered_json::array(), instances = variants;
  for (size_t v = 0; v < job.layout->variants.size(); ++v)
    variants.push_back({{"name", job.layout->variants[v].name},
                        {"error_frac", job.layout->variants[v].error_frac},
                        {"read_frac", job.layout->variants[v].read_frac}});
  for (const ExpertInstance& i : job.layout->instances)
    instances.push_back({i.expert, i.variant, i.device});
  return {{"devices", job.layout->devices},
          {"variants", std::move(variants)},
          {"instances", std::move(instances)}};  // of expert, variant, device
}

std::string to_json(const RouteOptions& options, const RouteJob& job,
                    const std::vector<RoutedBatch>& routed) {
  nlohmann::ordered_json json = {{"input", options.logits + options.scores},
                                 {"policy", options.policy},
                                 {"tokens", job.scores.tokens},
                                 {"experts", job.scores.experts},
                                 {"k", options.k},
                                 {"min_k", options.min_k},
                                 {"repeat", options.repeat}};
  if (options.max_loss_frac) json["max_loss_frac"] = *options.max_loss_frac;
  if (options.cost_budget) json["cost_budget"] = *options.cost_budget;
  if (job.layout) json["layout"] = layout_json(job);
  json.update(to_json(routed, !options.no_plans));
  // Long arrays on one line: nothing but a program reads them.
  return json.dump(options.no_plans ? 2 : -1) + "\n";
}

void run_route(const RouteOptions& options) {
  const RouteJob job = read_job(options);
  const auto policy = make_routing_policy(options.policy);
  const std::vector<RoutedBatch> routed = route_all(options, job, *policy);
  if (!options.out.empty()) write_arrays(options.out, routed, job.scores.stacked);
  if (!options.json.empty()) write_file(options.json, to_json(options, job, routed));
  if (options.json == "-") return;
  fmt::print("{} batches of {} tokens over {} experts, k = {}, policy {}\n{}", routed.size(),
             job.scores.tokens, job.scores.experts, options.k, policy->name(), to_table(routed));
}

void add_price_options(CLI::App& command, RouteOptions& options) {
  const std::string form = "; a number, or a file (.npy or JSON) of one for each expert";
  command.add_option(options.open.flag, options.open.source,
                     "price of reading an expert, in gate mass of one token" + form +
                         " or instance. A variant costs its share of it");
  command.add_option(options.slope.flag, options.slope.source,
                     "price of one more token through an expert" + form + " or instance");
  command.add_option(options.device_open.flag, options.device_open.source,
                     "the same on a device: what counts is the device that costs most (latency)");
  command.add_option(options.device_slope.flag, options.device_slope.source,
                     "the same for one more token");
}

void add_layout_options(CLI::App& command, RouteOptions& options) {
  command.add_option(
      "--variants", options.variants,
      "precisions that every expert can be had in, NAME[:ERROR_FRAC[:READ_FRAC]],... "
      "as in bf16,int8:0.004,int4:0.03: the relative error of an output and the "
      "share of the bytes, and so of the opening price, by default the bits in the name over "
      "the first's. The first is the checkpoint's own");
  command.add_option("--placement", options.placement,
                     "JSON file that says which devices hold each expert: {\"devices\": 2, "
                     "\"experts\": [[0], [1], [0, 1]]}, optionally with \"capacity\" (tokens; one, "
                     "or one for each expert or instance) and \"device_base\" (what a device costs "
                     "that is sent nothing)");
  command.add_option("--capacity", options.capacity, "most tokens of a batch at each instance")
      ->check(CLI::NonNegativeNumber);
}

void add_goal_options(CLI::App& command, RouteOptions& options) {
  CLI::Option* loss = command
                          .add_option("--max-loss-frac", options.max_loss_frac,
                                      "least cost that loses at most this share of top-k's utility")
                          ->check(CLI::Range(0.0, 1.0));
  command
      .add_option("--cost-budget", options.cost_budget,
                  "most utility at a cost of at most this, in the unit of the prices")
      ->check(CLI::NonNegativeNumber)
      ->excludes(loss);
}

}  // namespace

void add_route_command(CLI::App& program) {
  const auto options = std::make_shared<RouteOptions>();
  CLI::App* command = program.add_subcommand(
      "route",
      "Plans for score matrices from outside: NumPy .npy of f16, f32, f64 or bfloat16 (as uint16), "
      "[tokens, experts] or [batches, tokens, experts], in C order");
  CLI::Option* logits = command->add_option(
      "--logits", options->logits, "router logits, before the softmax; - for standard input");
  command->add_option("--scores", options->scores, "gate probabilities, taken as they are")
      ->excludes(logits);
  command->add_option("--k", options->k, "experts of a token")
      ->required()
      ->check(CLI::Range(1, 1 << 20));
  command->add_option("--min-k", options->min_k, "a token may use so few experts; 0: exactly k")
      ->check(CLI::NonNegativeNumber);
  command->add_flag("--no-renormalize", options->no_renormalize,
                    "weights are the probabilities themselves, not their shares of the top-k's");
  command
      ->add_option("--policy", options->policy,
                   "name:key=value,key=value, of those that eval --help lists; prices given here "
                   "come before the policy's own")
      ->capture_default_str();
  add_price_options(*command, *options);
  add_layout_options(*command, *options);
  add_goal_options(*command, *options);
  command
      ->add_option("--repeat", options->repeat,
                   "route everything so many times; where it is more than one the first is not "
                   "timed")
      ->check(CLI::Range(1, 1 << 20))
      ->capture_default_str();
  command->add_option("--json", options->json,
                      "write plans, certificates and times as JSON to this file; - for stdout");
  command->add_flag("--no-plans", options->no_plans, "leave the plans out of the JSON");
  command->add_option(
      "--out", options->out,
      "write PREFIX.ids.npy, PREFIX.instances.npy (int32) and PREFIX.weights.npy "
      "(float32), [batches, tokens, k], without the first where the scores had none");
  command->callback([options] { run_route(*options); });
}

}  // namespace thermoe::app
