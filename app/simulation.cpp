#include "simulation.h"

#include <algorithm>
#include <map>
#include <memory>
#include <numeric>

#include "thermoe/gpu_system_monitor.h"
#include "thermoe/routing_policies.h"

namespace thermoe::app {
namespace {

constexpr int kNominalSteps = 64;  // enough for a mean within a percent
// A step takes a few percent more or less than the mean: aiming this far below the target makes
// most steps meet it, not half of them.
constexpr double kAim = 0.96;
// The governor sees latency low-passed over this: a tick holds two or three steps only.
constexpr double kLatencyFilterS = 0.5;

}  // namespace

double highest_open_price(const ExpertPrices& prices) {
  return prices.open.empty() ? 0.0 : *std::max_element(prices.open.begin(), prices.open.end());
}

void spread_prices(const Governor& governor, const CostSurrogate& surrogate,
                   const Variants& variants, const ExpertPrices& bf16_prices,
                   std::vector<ExpertPrices>& prices) {
  for (size_t l = 0; l < prices.size(); ++l) {
    const ExpertLayout* layout = variants.layout(static_cast<int>(l));
    prices[l] = layout != nullptr ? governor.prices(surrogate, *layout) : bf16_prices;
  }
}

double PhaseRecord::open_price_mean() const {
  double sum = 0;
  for (const ExpertPrices& tick : prices) sum += highest_open_price(tick);
  return prices.empty() ? 0.0 : sum / static_cast<double>(prices.size());
}

// One run's state.
struct Simulation::Loop {
  Simulation& owner;
  bool adaptive;
  const std::function<void(const LiveStatus&)>& live;
  std::unique_ptr<RoutingPolicy> policy;
  DigitalTwin twin;
  GpuSystemMonitor monitor;
  CostSurrogate surrogate;
  Governor governor;
  StepCharge charge;
  std::vector<ExpertPrices> prices;  // [layers] of experts, or of their layouts' instances
  ExpertPrices bf16_prices;          // of experts in bf16, as all layers' are made of
  RunRecord record;
  // Since the last tick.
  double tick_start_s = 0, layer_latency_us = 0, distinct = 0;
  int64_t steps = 0, tokens = 0;
  std::optional<double> filtered_latency_us;
  // Of the phase and round under way.
  double phase_distinct = 0;
  std::array<double, kPrecisions> phase_opened{};
  int64_t phase_steps = 0;
  int phase = 0, round = 0, free_steps = 0;
  bool all_free = true;

  Loop(Simulation& simulation, bool adaptive_run,
       const std::function<void(const LiveStatus&)>& view)
      : owner(simulation),
        adaptive(adaptive_run),
        live(view),
        policy(make_routing_policy(adaptive ? "adaptive" : "topk", owner.engine_.policy_context())),
        twin(simulation.twin_),
        monitor(twin.source()),
        surrogate(owner.engine_.charge.surrogate(owner.decoder_.settings().batch)),
        governor(limits(Phase{}), surrogate),
        charge(owner.engine_.charge),
        prices(static_cast<size_t>(owner.engine_.model.config().layers)) {
    record.policy = policy->name();
  }

  GovernorLimits limits(const Phase& now) const {
    GovernorLimits limits;
    limits.power_cap_w = now.power_cap_w.value_or(owner.twin_.power_limit_w);
    limits.temperature_cap_c = owner.settings_.temperature_cap_c;
    limits.layer_latency_target_us = kAim * owner.settings_.latency_target_us;
    limits.max_open_price = owner.settings_.max_open_price;
    return limits;
  }

  void run() {
    for (phase = 0; phase < static_cast<int>(owner.scenario_.phases.size()); ++phase)
      run_phase(owner.scenario_.phases[static_cast<size_t>(phase)]);
  }

  void run_phase(const Phase& now) {
    twin.set_environment(now.environment());
    governor.set_limits(limits(now));
    PhaseRecord& result = record.phases.emplace_back();
    result.name = now.name;
    result.relaxed = now.relaxed();
    result.start_s = twin.time_s();
    phase_distinct = 0;
    phase_opened = {};
    phase_steps = 0;
    round = 0;
    begin_round();
    while (twin.time_s() - result.start_s < now.duration_s) {
      if (owner.decoder_.over()) end_round(), ++round, begin_round();
      step(result);
      if (twin.time_s() - tick_start_s >= owner.settings_.tick_s) tick(result);
    }
    end_round();
    result.duration_s = twin.time_s() - result.start_s;
    result.distinct_experts = phase_steps ? phase_distinct / static_cast<double>(phase_steps) : 0;
    const double opened = std::accumulate(phase_opened.begin(), phase_opened.end(), 0.0);
    for (size_t p = 0; p < phase_opened.size() && opened > 0; ++p)
      result.opened_frac[p] = phase_opened[p] / opened;
  }

  void begin_round() {
    owner.decoder_.begin(round);
    free_steps = 0;
    all_free = true;
  }

  void end_round() {
    RoundRecord& done = record.rounds.emplace_back();
    done.phase = phase;
    done.round = round;
    done.free_steps = free_steps;
    done.texts = owner.decoder_.texts();
    for (int s = 0; s < owner.decoder_.settings().batch; ++s)
      done.prompt_lengths.push_back(owner.decoder_.prompt_length(s));
  }

  void step(PhaseRecord& result) {
    const bool decoding = owner.decoder_.prefilled();
    charge.clear();
    const int64_t rows = owner.decoder_.step({.policy = policy.get(),
                                              .prices = prices,
                                              .layouts = owner.engine_.variants.layouts(),
                                              .observer = &charge});
    const CostEstimate work = charge.step(static_cast<double>(rows));
    const TwinStep done = twin.advance(work, owner.settings_.period_s);
    all_free = all_free && bf16_prices.zero();
    free_steps += all_free;
    const int batch = owner.decoder_.settings().batch;
    tokens += batch;
    result.tokens += batch;
    result.energy_j += done.energy_j;
    result.throttled_s += done.throttled_s;
    result.peak_c = std::max(result.peak_c, twin.temperature_c());
    if (!decoding) return;  // a prefill's layers say nothing about a decode step's latency
    layer_latency_us += charge.layer_latency_us() * done.busy_s * 1e6 / work.latency_us;
    distinct += charge.distinct_experts();
    phase_distinct += charge.distinct_experts();
    for (size_t p = 0; p < phase_opened.size(); ++p) phase_opened[p] += charge.opened()[p];
    ++steps;
    ++phase_steps;
  }

  void tick(PhaseRecord& result) {
    const double dt_s = twin.time_s() - tick_start_s;
    const HardwareState state = monitor.poll();
    if (steps > 0) {
      const double latency_us = layer_latency_us / static_cast<double>(steps);
      const double before_us = filtered_latency_us.value_or(latency_us);
      filtered_latency_us =
          before_us + (latency_us - before_us) * std::min(1.0, dt_s / kLatencyFilterS);
    }
    if (adaptive) {
      governor.update(state, steps > 0 ? filtered_latency_us : std::nullopt, dt_s);
      bf16_prices = governor.prices(surrogate, owner.engine_.model.config().experts);
      spread_prices(governor, surrogate, owner.engine_.variants, bf16_prices, prices);
    }
    result.prices.push_back(bf16_prices);
    publish(state, dt_s);
    tick_start_s = twin.time_s();
    layer_latency_us = distinct = 0;
    steps = tokens = 0;
  }

  void publish(const HardwareState& state, double dt_s) {
    Sample sample;
    sample.time_s = twin.time_s();
    // Where the sensors are lost the last reading stands, as it does for the governor.
    const Sample last = record.samples.empty() ? Sample{} : record.samples.back();
    sample.power_w = state.power_average_w.value_or(last.power_w);
    sample.temperature_c = twin.temperature_c();
    sample.clock_mhz = state.sm_clock_mhz.value_or(last.clock_mhz);
    sample.open_price = highest_open_price(bf16_prices);
    sample.distinct_experts = steps ? distinct / static_cast<double>(steps) : last.distinct_experts;
    sample.tokens_per_s = static_cast<double>(tokens) / dt_s;
    record.samples.push_back(sample);
    if (live)
      live({.policy = adaptive ? "thermoe" : "top-k",
            .phase = record.phases.back().name,
            .fraction = twin.time_s() / owner.scenario_.duration_s(),
            .sample = sample,
            .throttled = state.throttled()});
  }
};

Simulation::Simulation(Engine& engine, Decoder& decoder, const Scenario& scenario,
                       const TwinParameters& twin, const SimulationSettings& settings)
    : engine_(engine), decoder_(decoder), scenario_(scenario), twin_(twin), settings_(settings) {}

RunRecord Simulation::run(bool adaptive, const std::function<void(const LiveStatus&)>& live) {
  Loop loop(*this, adaptive, live);
  loop.run();
  return std::move(loop.record);
}

Nominal nominal_latency(Engine& engine, Decoder& decoder) {
  TopKPolicy policy;
  StepCharge charge(engine.charge);
  decoder.begin(0);
  const auto layouts = engine.variants.layouts();
  decoder.step({.policy = &policy, .prices = {}, .layouts = layouts, .observer = nullptr});
  for (int i = 0; i < kNominalSteps && !decoder.over(); ++i)
    decoder.step({.policy = &policy, .prices = {}, .layouts = layouts, .observer = &charge});
  return {charge.layer_latency_us(), engine.cost.dense_step(decoder.settings().batch).latency_us};
}

IdentityCheck check_identity(const RunRecord& top_k, const RunRecord& adaptive) {
  std::map<std::pair<int, int>, const RoundRecord*> known;
  for (const RoundRecord& round : top_k.rounds) known[{round.phase, round.round}] = &round;
  IdentityCheck check;
  for (const RoundRecord& round : adaptive.rounds) {
    const auto match = known.find({round.phase, round.round});
    if (match == known.end()) continue;  // top-k fell behind and never decoded this round
    for (size_t s = 0; s < round.texts.size(); ++s) {
      const auto& mine = round.texts[s];
      const auto& theirs = match->second->texts[s];
      const size_t prompt = static_cast<size_t>(round.prompt_lengths[s]);
      const size_t end =
          std::min({prompt + static_cast<size_t>(round.free_steps), mine.size(), theirs.size()});
      for (size_t i = prompt; i < end; ++i) check.different += mine[i] != theirs[i];
      check.tokens += static_cast<int64_t>(end - std::min(end, prompt));
      if (adaptive.phases[static_cast<size_t>(round.phase)].relaxed)
        check.relaxed_tokens += static_cast<int64_t>(end - std::min(end, prompt));
    }
  }
  return check;
}

}  // namespace thermoe::app
