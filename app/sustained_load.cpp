#include "sustained_load.h"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <random>

#include "plan_statistics.h"
#include "simulation.h"
#include "thermoe/error.h"

namespace thermoe::app {
namespace {

using Clock = std::chrono::steady_clock;

constexpr double kLoadTickS = 0.05;
constexpr int kMostStepsAhead = 256;
constexpr size_t kComparedTokens = 4096;

double elapsed_s(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

// A mean of what is there.
struct Mean {
  double sum = 0;
  int64_t count = 0;
  void add(const std::optional<double>& value) {
    if (!value) return;
    sum += *value;
    ++count;
  }
  std::optional<double> value() const {
    return count > 0 ? std::optional(sum / static_cast<double>(count)) : std::nullopt;
  }
};

}  // namespace

// The batch and its place; a step is one pass over the model.
class SustainedLoad::Work {
 public:
  Work(LanguageModel& model, const LoadSettings& settings)
      : model_(model), settings_(settings), batch_(static_cast<size_t>(settings.batch)) {
    if (settings.batch < 1 || settings.prompt_tokens < 1)
      throw InvalidArgument("a load needs one or more sequences of one or more tokens");
    if (!settings.prefill && settings.context_tokens <= settings.prompt_tokens)
      throw InvalidArgument(
          fmt::format("--context {} leaves no room to decode behind prompts of {} tokens",
                      settings.context_tokens, settings.prompt_tokens));
    const int64_t positions = settings.prefill ? settings.prompt_tokens : settings.context_tokens;
    cache_ = model.make_cache(settings.batch, positions);
    std::mt19937_64 random(settings.seed);
    for (int s = 0; s < settings.batch; ++s)
      for (int p = 0; p < settings.prompt_tokens; ++p) {
        tokens_.push_back(
            static_cast<int32_t>(random() % static_cast<uint64_t>(model.config().vocab_size)));
        sequences_.push_back(s);
        positions_.push_back(p);
      }
  }

  // Back to the prompts, which decoding has in the cache.
  void begin(const RoutingContext& routing) {
    if (!settings_.prefill) prompts(routing);
    restart();
  }

  int layers() const { return model_.config().layers; }

  // About `steps`; returns how many.
  int step(const RoutingContext& routing, int steps, std::vector<int32_t>& sampled) {
    if (settings_.prefill) {
      prompts(routing);
      sampled = last_;
      return 1;
    }
    const int some = std::clamp(settings_.context_tokens - at_.front(), 1, steps);
    sampled.resize(batch_ * static_cast<size_t>(some));
    model_.decode({last_, at_, some, {0.8, settings_.seed, 0}}, routing, *cache_, sampled);
    last_.assign(sampled.end() - static_cast<std::ptrdiff_t>(batch_), sampled.end());
    for (int32_t& at : at_) at += some;
    if (at_.front() >= settings_.context_tokens) restart();
    return some;
  }

  int64_t tokens_a_step() const {
    return static_cast<int64_t>(settings_.prefill ? tokens_.size() : batch_);
  }

 private:
  void restart() {
    at_.assign(batch_, settings_.prompt_tokens);
    last_ = first_;
  }

  // In passes that the device takes, of whole sequences where they fit.
  void prompts(const RoutingContext& routing) {
    constexpr int64_t kMostRows = 16384;
    const int64_t rows = static_cast<int64_t>(tokens_.size()), length = settings_.prompt_tokens;
    const int64_t some = std::max<int64_t>(1, kMostRows / length) * length;
    last_.clear();
    for (int64_t first = 0; first < rows; first += some) {
      const size_t at = static_cast<size_t>(first);
      const size_t count = static_cast<size_t>(std::min(some, rows - first));
      const RowGroup all{0, static_cast<int64_t>(count)};
      std::vector<int32_t> ends;
      for (size_t r = static_cast<size_t>(length) - 1; r < count; r += static_cast<size_t>(length))
        ends.push_back(static_cast<int32_t>(r));
      const int64_t vocabulary = model_.config().vocab_size;
      logits_.resize(ends.size() * static_cast<size_t>(vocabulary));
      const Matrix logits(logits_.data(), static_cast<int64_t>(ends.size()), vocabulary);
      model_.forward(
          {{&tokens_[at], count}, {&sequences_[at], count}, {&positions_[at], count}, {&all, 1}},
          routing, *cache_, ends, logits);
      for (int64_t e = 0; e < logits.rows; ++e)
        last_.push_back(sample_token(logits.row_span(e), {}, 0, 0));
    }
    first_ = last_;
  }

  LanguageModel& model_;
  LoadSettings settings_;
  size_t batch_;
  std::unique_ptr<SequenceCache> cache_;
  std::vector<int32_t> tokens_, sequences_, positions_;  // of the prompts
  std::vector<int32_t> first_, last_, at_;  // what follows the prompts; the last token, its place
  std::vector<float> logits_;
};

SustainedLoad::SustainedLoad(LanguageModel& model, const Variants& variants, const Charge& charge,
                             const PolicyContext& context, const LoadSettings& settings)
    : model_(model),
      variants_(variants),
      charge_(charge),
      context_(context),
      settings_(settings),
      work_(std::make_unique<Work>(model, settings)) {}

SustainedLoad::~SustainedLoad() = default;

// One phase's state.
struct SustainedLoad::Loop {
  SustainedLoad& owner;
  const LoadPhase& phase;
  GpuSystemMonitor& monitor;
  const bool governed;
  const std::unique_ptr<RoutingPolicy> policy;
  const CostSurrogate surrogate;
  Governor governor;
  std::vector<ExpertPrices> prices;  // by layer
  ExpertPrices bf16_prices;
  LoadResult result = {};
  EnergyMeter energy = {};
  Mean power = {}, clock = {}, open_price = {}, slope_price = {}, layer_us = {}, distinct = {},
       gate_mass = {}, changed = {};
  std::array<double, kPrecisions> opened{};
  PlanSummary plans;  // of the last look
  int64_t ticks = 0, capped = 0, hot = 0;
  double now_s = 0, next_look_s = 0;
  int steps_ahead = 1;
  std::vector<int32_t> sampled;

  Loop(SustainedLoad& load, const LoadPhase& which, GpuSystemMonitor& telemetry)
      : owner(load),
        phase(which),
        monitor(telemetry),
        governed(which.adaptive && which.open_price == 0 && which.slope_price == 0),
        policy(make_routing_policy(policy_name(which), load.context_)),
        surrogate(load.charge_.surrogate(static_cast<double>(load.work_->tokens_a_step()))),
        governor(which.limits, surrogate),
        prices(static_cast<size_t>(load.work_->layers())) {
    result.phase = which;
  }

  static std::string policy_name(const LoadPhase& phase) {
    if (!phase.adaptive) return "topk";
    return fmt::format("adaptive:open={},slope={}", phase.open_price, phase.slope_price);
  }

  RoutingContext routing() {
    RoutingContext context{
        .policy = policy.get(), .prices = {}, .layouts = owner.variants_.layouts()};
    if (governed) context.prices = prices;
    return context;
  }

  // One step more, of which nothing but the plans counts.
  void look(Clock::time_point start, bool counted) {
    PlanStatistics seen(owner.charge_);
    RoutingContext context = routing();
    context.observer = &seen;
    step(context, 1);
    plans = seen.summary();
    if (counted) {
      distinct.add(plans.distinct_experts_mean);
      gate_mass.add(plans.gate_mass_frac);
      changed.add(plans.changed_tokens_frac);
      for (size_t p = 0; p < opened.size(); ++p) opened[p] += plans.opened_frac[p];
    }
    now_s = elapsed_s(start);
    next_look_s = now_s + owner.settings_.look_s;
  }

  int step(const RoutingContext& context, int ahead) {
    const int steps = owner.work_->step(context, ahead, sampled);
    if (result.first_tokens.size() < kComparedTokens)
      result.first_tokens.insert(result.first_tokens.end(), sampled.begin(), sampled.end());
    return steps;
  }

  // For about a tick.
  LoadSample work(Clock::time_point start, int& steps) {
    const double since_s = now_s;
    for (steps = 0; now_s - since_s < kLoadTickS || steps == 0; now_s = elapsed_s(start))
      steps += step(routing(), steps_ahead);
    const double took_s = now_s - since_s;
    // As many steps without a word from here as a tick lasts.
    steps_ahead = std::clamp(static_cast<int>(kLoadTickS / took_s * steps), 1, kMostStepsAhead);
    LoadSample sample;
    sample.time_s = now_s;
    sample.seconds = took_s;
    sample.tokens_per_s = static_cast<double>(owner.work_->tokens_a_step() * steps) / took_s;
    sample.layer_us = took_s * 1e6 / steps / owner.work_->layers();
    return sample;
  }

  void read(const HardwareState& state, LoadSample& sample) const {
    sample.power_w = state.power_w();
    sample.clock_mhz = state.sm_clock_mhz;
    sample.temperature_c = state.temperature_c;
    sample.open_price = governed ? highest_open_price(bf16_prices) : phase.open_price;
    sample.slope_price = phase.slope_price;
    if (governed && !bf16_prices.slope.empty())
      sample.slope_price = static_cast<double>(bf16_prices.slope[0]);
  }

  void count(const HardwareState& state, const LoadSample& sample, int steps) {
    energy.add(state);
    result.tokens += owner.work_->tokens_a_step() * steps;
    result.seconds += sample.seconds;
    power.add(sample.power_w);
    clock.add(sample.clock_mhz);
    open_price.add(sample.open_price);
    slope_price.add(sample.slope_price);
    layer_us.add(sample.layer_us);
    ++ticks;
    const uint64_t reasons = state.throttle_reasons.value_or(0);
    capped += (reasons & kThrottleAnyPower) != 0;
    hot += (reasons & kThrottleAnyThermal) != 0;
    if (sample.temperature_c)
      result.temperature_peak_c =
          std::max(result.temperature_peak_c.value_or(0), *sample.temperature_c);
  }

  void tick(Clock::time_point start) {
    const bool counted = now_s >= owner.settings_.warm_up_s;
    if (now_s >= next_look_s || (counted && distinct.count == 0)) look(start, counted);
    int steps = 0;
    LoadSample sample = work(start, steps);
    const HardwareState state = monitor.state();
    read(state, sample);
    sample.distinct_experts = plans.distinct_experts_mean;
    result.samples.push_back(sample);
    if (counted) count(state, sample, steps);
    if (owner.settings_.kernels) owner.settings_.kernels->set_state(state);
    if (!governed) return;
    governor.update(state, sample.layer_us, sample.seconds);
    bf16_prices = governor.prices(surrogate, static_cast<int>(owner.model_.config().experts));
    spread_prices(governor, surrogate, owner.variants_, bf16_prices, prices);
  }

  void finish() {
    result.layer_us = layer_us.value().value_or(0);
    result.energy = energy.reading();
    result.power_w = power.value();
    result.clock_mhz = clock.value();
    result.open_price = open_price.value().value_or(0);
    result.slope_price = slope_price.value().value_or(0);
    result.distinct_experts = distinct.value().value_or(0);
    result.gate_mass_frac = gate_mass.value().value_or(1);
    result.changed_tokens_frac = changed.value().value_or(0);
    if (ticks == 0) return;
    const double count = static_cast<double>(ticks);
    for (size_t p = 0; p < opened.size() && distinct.count > 0; ++p)
      result.opened_frac[p] = opened[p] / static_cast<double>(distinct.count);
    result.power_capped_frac = static_cast<double>(capped) / count;
    result.heat_throttled_frac = static_cast<double>(hot) / count;
  }
};

LoadResult SustainedLoad::run(const LoadPhase& phase, GpuSystemMonitor& monitor,
                              const std::function<void(double)>& progress) {
  Loop loop(*this, phase, monitor);
  work_->begin(loop.routing());
  const auto start = Clock::now();
  const double seconds = phase.seconds > 0 ? phase.seconds : settings_.seconds;
  while (loop.now_s < settings_.warm_up_s || loop.result.seconds < seconds) {
    loop.tick(start);
    if (progress) progress(loop.now_s);
  }
  loop.finish();
  return std::move(loop.result);
}

}  // namespace thermoe::app
