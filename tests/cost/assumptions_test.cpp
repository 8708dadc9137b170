// The assumptions of docs/theory-costs.md against the shipped measurements: where each holds,
// and what the convex envelope costs where it doesn't. Every figure of its table is
// printed here: cost_tests --gtest_filter='Assumptions*'.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <functional>
#include <map>
#include <numeric>
#include <random>

#include "cost/convex_envelope.h"
#include "cost/latency_surface.h"
#include "cost/least_squares.h"
#include "cost/measured_shapes.h"
#include "cost/paths.h"
#include "cost/power_model.h"
#include "cost/recorded_trace.h"
#include "cost/shipped_twin.h"
#include "thermoe/digital_twin.h"
#include "thermoe/kernel_cost_model.h"

namespace thermoe::cost {
namespace {

using test::source_path;

double median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  return values[values.size() / 2];
}
double largest(const std::vector<double>& values) {
  return *std::max_element(values.begin(), values.end());
}

class Assumptions : public testing::Test {
 protected:
  // The unsplit bf16 shapes of the two devices whose tables hold all loads of each.
  static const std::vector<std::pair<std::string, std::vector<MeasuredShape>>>& profiles() {
    static const std::vector<std::pair<std::string, std::vector<MeasuredShape>>> all = {
        {"H100", test::unsplit_shapes(test::h100_profile())},
        {"H200", test::unsplit_shapes(source_path("data/profiles/h200-sxm.json"))}};
    return all;
  }
  static void print(const std::string& device, const char* what, const std::vector<double>& fracs) {
    print(device, what, EnvelopeGap{median(fracs), largest(fracs)});
  }
  static void print(const std::string& device, const char* what, const EnvelopeGap& fracs) {
    std::printf("  %-5s %-66s median %6.2f %%  largest %6.2f %%\n", device.c_str(), what,
                100 * fracs.median_frac, 100 * fracs.largest_frac);
  }
};

// The gap of the curve over tokens between `first` and `last` tokens.
EnvelopeGap gap_over_tokens(const MeasuredLoad& load, double last) {
  size_t count = 0;
  while (count < load.tokens.size() && load.tokens[count] <= last) ++count;
  return envelope_gap({load.tokens.data(), count}, {load.latency_us.data(), count});
}

// Why the program is not written in tokens: decode batches open experts, later ones are full.
TEST_F(Assumptions, LatencyIsNotConvexInTheTokenCount) {
  for (const auto& [device, shapes] : profiles()) {
    std::vector<double> medians, largests, decode;
    for (const MeasuredShape& shape : shapes)
      for (const MeasuredLoad& load : shape.loads) {
        const EnvelopeGap all = gap_over_tokens(load, 1e9);
        medians.push_back(all.median_frac);
        largests.push_back(all.largest_frac);
        decode.push_back(gap_over_tokens(load, 256).largest_frac);
      }
    print(device, "latency over tokens, envelope's gap (median of a curve)", medians);
    print(device, "latency over tokens, envelope's gap (largest of a curve)", largests);
    print(device, "the same up to 256 tokens", decode);
    EXPECT_GT(*std::min_element(largests.begin(), largests.end()), 0.25) << device;
    EXPECT_GT(median(medians), 0.5) << device;
    EXPECT_GT(median(decode), 0.4) << device;
  }
}

// M(D): balanced loads with one token an expert, up to all experts.
TEST_F(Assumptions, LatencyIsConvexInTheDistinctExperts) {
  for (const auto& [device, shapes] : profiles()) {
    std::vector<double> gaps;
    for (const MeasuredShape& shape : shapes) {
      const MeasuredLoad& load = shape.loads.front();
      size_t count = 0;
      while (load.distinct_experts[count] < shape.experts) ++count;
      ++count;  // the first with all
      gaps.push_back(
          envelope_gap({load.distinct_experts.data(), count}, {load.latency_us.data(), count})
              .largest_frac);
    }
    print(device, "latency over distinct experts, largest gap of a curve", gaps);
    EXPECT_LT(median(gaps), 0.045) << device;
    EXPECT_LT(largest(gaps), 0.22) << device;
  }
}

// F(A): balanced loads that touch every expert. The hump stands where reading gives way to
// arithmetic: in decode-sized batches the curve is convex.
TEST_F(Assumptions, LatencyIsConvexInTheAssignmentsOfAFullSet) {
  for (const auto& [device, shapes] : profiles()) {
    std::vector<double> medians, largests;
    for (const MeasuredShape& shape : shapes) {
      const MeasuredLoad& load = shape.loads.front();
      size_t first = 0;
      while (load.distinct_experts[first] < shape.experts) ++first;
      const size_t count = load.tokens.size() - first;
      const EnvelopeGap gap = envelope_gap({load.tokens.data() + first, count},
                                           {load.latency_us.data() + first, count});
      medians.push_back(gap.median_frac);
      largests.push_back(gap.largest_frac);
    }
    print(device, "latency over assignments, all experts (median of a curve)", medians);
    print(device, "latency over assignments, all experts (largest of a curve)", largests);
    EXPECT_LT(largest(medians), 0.07) << device;
    EXPECT_LT(median(largests), 0.25) << device;
    EXPECT_LT(largest(largests), 0.42) << device;
  }
}

// One table's measured points up to a number of tokens, each scaled to a relative error.
std::vector<FitPoint> relative_points(const MeasuredShape& shape, double most_tokens) {
  std::vector<FitPoint> points;
  for (const MeasuredLoad& load : shape.loads)
    for (size_t i = 0; i < load.tokens.size() && load.tokens[i] <= most_tokens; ++i) {
      const double us = load.latency_us[i];
      points.push_back(
          {{1 / us, load.distinct_experts[i] / us, load.tokens[i] * shape.top_k / us}, 1.0});
    }
  return points;
}

double value(const std::array<double, 3>& c, const FitPoint& p) {
  return c[0] * p.x[0] + c[1] * p.x[1] + c[2] * p.x[2];
}

// The form that the program charges (fixed, per distinct expert, per assignment) against every
// measured row, skewed loads included.
TEST_F(Assumptions, LatencyIsNearlyLinearInDistinctExpertsAndAssignments) {
  const std::pair<double, double> limits[] = {{16, 0.06}, {64, 0.06}, {256, 0.07}, {1e9, 0.09}};
  for (const auto& [device, shapes] : profiles()) {
    for (const auto& [tokens, limit] : limits) {
      std::vector<double> means;
      for (const MeasuredShape& shape : shapes) {
        const std::vector<FitPoint> points = relative_points(shape, tokens);
        const auto fit = fit_nonnegative(points);
        double error = 0;
        for (const FitPoint& p : points) error += std::abs(value(fit, p) - 1);
        means.push_back(error / static_cast<double>(points.size()));
      }
      char what[80];
      std::snprintf(what, sizeof(what), "linear in (distinct, assignments), mean error, %s tokens",
                    tokens > 1e6 ? "all" : std::to_string(static_cast<int>(tokens)).c_str());
      print(device, what, means);
      EXPECT_LT(largest(means), limit) << device << " " << tokens;
      EXPECT_LT(median(means), 0.045) << device << " " << tokens;
    }
  }
}

// Gap of `f` along `lines` random segments of the domain that a batch of `tokens` can reach.
std::vector<double> gaps_along_lines(
    const MeasuredShape& shape, double tokens, int lines,
    const std::function<double(double distinct, double assignments)>& f) {
  std::mt19937 random(11);
  std::uniform_real_distribution<double> share(0, 1);
  const double most = tokens * shape.top_k;
  const double top = std::min<double>(most, shape.experts);
  const double low = std::min<double>(shape.top_k, top);
  const auto point = [&] {
    const double distinct = low + (top - low) * share(random);
    return std::pair(distinct, distinct + (most - distinct) * share(random));
  };
  std::vector<double> gaps;
  for (int line = 0; line < lines; ++line) {
    const auto [d0, a0] = point();
    const auto [d1, a1] = point();
    std::vector<double> along, values;
    for (int i = 0; i <= 24; ++i) {
      along.push_back(i / 24.0);
      values.push_back(f(d0 + (d1 - d0) * along.back(), a0 + (a1 - a0) * along.back()));
    }
    gaps.push_back(envelope_gap(along, values).largest_frac);
  }
  return gaps;
}

// Joint convexity of what KernelCostModel answers, as far as segments of its domain can tell.
TEST_F(Assumptions, TheModelsLatencyIsNearlyConvexAlongSegments) {
  const std::pair<double, double> limits[] = {{16, 0.12}, {64, 0.20}, {256, 0.25}};
  for (const auto& [device, shapes] : profiles())
    for (const auto& [tokens, limit] : limits) {
      std::vector<double> p99s;
      for (const MeasuredShape& shape : shapes) {
        const LatencySurface surface(shape);
        std::vector<double> gaps = gaps_along_lines(
            shape, tokens, 400, [&](double d, double a) { return surface.at(d, a).latency_us; });
        std::sort(gaps.begin(), gaps.end());
        p99s.push_back(gaps[gaps.size() * 99 / 100]);
      }
      char what[80];
      std::snprintf(what, sizeof(what), "modelled latency on segments, p99 of a table, %.0f tokens",
                    tokens);
      print(device, what, p99s);
      EXPECT_LT(largest(p99s), limit) << device << " " << tokens;
      EXPECT_LT(median(p99s), 0.08) << device << " " << tokens;
    }
}

// Energy is power times time: the same envelope, of the shapes known by name.
TEST_F(Assumptions, TheModelsEnergyIsNearlyConvexInTheDistinctExperts) {
  for (const char* file : {"data/profiles/h100-sxm.json", "data/profiles/h200-sxm.json"}) {
    std::vector<double> gaps, latency_gaps;
    for (const CostShape& shape : known_cost_shapes()) {
      const KernelCostModel model(source_path(file), shape);
      const double most = 16.0 * shape.top_k, top = std::min<double>(most, shape.experts);
      std::vector<double> distinct, energy_mj, latency_us;
      for (int i = 0; i <= 12; ++i) {
        distinct.push_back(shape.top_k + (top - shape.top_k) * i / 12);
        const CostEstimate layer = model.moe_layer({16, distinct.back(), most});
        energy_mj.push_back(layer.energy_mj);
        latency_us.push_back(layer.latency_us);
      }
      EXPECT_TRUE(std::is_sorted(energy_mj.begin(), energy_mj.end())) << shape.name;
      gaps.push_back(envelope_gap(distinct, energy_mj).largest_frac);
      latency_gaps.push_back(envelope_gap(distinct, latency_us).largest_frac);
      EXPECT_NEAR(model.surrogate(16).envelope_gap_frac, latency_gaps.back(), 1e-12);
    }
    const std::string device = std::string(file).substr(14, 4);
    print(device, "modelled energy over distinct experts, 16 tokens", gaps);
    print(device, "CostSurrogate::envelope_gap_frac, 16 tokens", latency_gaps);
    EXPECT_LT(largest(gaps), 0.06) << file;
    EXPECT_LT(largest(latency_gaps), 0.13) << file;
    EXPECT_LT(median(latency_gaps), 0.05) << file;
    EXPECT_GT(median(latency_gaps), 0.01) << file;
  }
}

// At one clock: the four recorded MoE layers, 16 tokens, all at the maximum clock.
TEST_F(Assumptions, PowerRisesConvexlyWithTheReadingRateAtAFixedClock) {
  const double expert_bytes = 2 * 3.0 * 2048 * 768;
  // Latencies measured beside the trace (data/telemetry/works.json).
  const std::pair<int, double> layers[] = {{16, 80.6}, {32, 133.7}, {64, 250.8}, {128, 474.5}};
  std::vector<double> rate, power, linear;
  std::vector<FitPoint> points;
  for (const auto& [distinct, us] : layers) {
    const auto phase = test::mean_of("moe_B16_d" + std::to_string(distinct), 1.5);
    EXPECT_NEAR(phase.clock_mhz, 1980, 20) << distinct;
    rate.push_back(distinct * expert_bytes / us * 1e-6);  // TB/s
    power.push_back(phase.power_w);
    points.push_back({{1, rate.back(), 0}, power.back()});
  }
  EXPECT_TRUE(std::is_sorted(power.begin(), power.end()));
  const auto fit = fit_nonnegative(points);
  for (const FitPoint& p : points) linear.push_back(std::abs(value(fit, p) / p.y - 1));
  const EnvelopeGap gap = envelope_gap(rate, power);
  print("H100", "power over bytes/s at 1980 MHz, envelope's gap", gap);
  print("H100", "power over bytes/s at 1980 MHz, error of a line", linear);
  EXPECT_LT(gap.largest_frac, 0.04);
  EXPECT_LT(largest(linear), 0.03);
}

// In the recorded idle and cooling seconds, by whole degrees; the first two seconds of each are
// left out, when the power reading still shows the work before.
TEST_F(Assumptions, LeakageIsConvexInTemperatureAndTheLoopIsContracting) {
  std::map<int, std::pair<double, double>> degrees;  // sum, count
  for (const auto& [phase, from_s, to_s] :
       {std::tuple("idle", 1.5, 3.0), {"cool", 45.0, 51.0}, {"cool", 73.0, 76.0}})
    for (const test::Row& row : test::read_phase(phase, from_s, to_s)) {
      auto& [sum, count] = degrees[static_cast<int>(row.temperature_c)];
      sum += row.power_instant_w;
      count += 1;
    }
  std::vector<double> temperature, power, linear;
  std::vector<FitPoint> points;
  for (const auto& [degree, bin] : degrees) {
    if (bin.second < 5) continue;
    temperature.push_back(degree);
    power.push_back(bin.first / bin.second);
    points.push_back({{1, temperature.back(), 0}, power.back()});
  }
  ASSERT_GE(points.size(), 5u);
  const auto fit = fit_nonnegative(points);
  for (const FitPoint& p : points) linear.push_back(std::abs(value(fit, p) / p.y - 1));
  const EnvelopeGap gap = envelope_gap(temperature, power);
  print("H100", "idle power over temperature, envelope's gap", gap);
  print("H100", "idle power over temperature, error of a line", linear);
  EXPECT_LT(gap.largest_frac, 0.004);
  EXPECT_LT(largest(linear), 0.004);

  const TwinParameters p = test::h100_twin();
  const double resistance = p.thermal.resistance_c_per_w();
  std::printf("  H100  idle power %.0f to %.0f C: %.3f W/C; identified: R dP/dT = %.4f\n",
              temperature.front(), temperature.back(), fit[1], resistance * p.leakage_w_per_c);
  EXPECT_NEAR(fit[1], p.leakage_w_per_c, 0.1);
  EXPECT_LT(resistance * fit[1], 0.05);
}

// The twin's own steady state is the fixed point, and the iteration's errors shrink by R dP/dT.
TEST_F(Assumptions, TheTemperatureIsTheFixedPointOfTheIteration) {
  const TwinParameters p = test::h100_twin();
  const double resistance = p.thermal.resistance_c_per_w();
  CostEstimate work;
  work.latency_us = 500;
  work.bytes = 1e9;
  const auto image = [&](double t) {
    const Activity activity = activity_of(work, work.latency_us);
    return p.thermal.inlet_c + resistance * power_w(p, p.clock_max_mhz, t, activity) -
           p.thermal.poles[0].resistance_c_per_w * p.thermal.memory_bypass_frac *
               memory_power_w(p, activity);
  };
  double t = 200, previous_step = 0;
  for (int i = 0; i < 12; ++i) {
    const double step = image(t) - t;
    if (i > 0 && std::abs(step) > 1e-7) {
      EXPECT_NEAR(step / previous_step, resistance * p.leakage_w_per_c, 1e-6);
    }
    previous_step = step;
    t += step;
  }
  DigitalTwin twin(p);
  while (twin.time_s() < 15 * p.thermal.poles.back().time_constant_s) twin.advance(work, 0);
  EXPECT_NEAR(twin.temperature_c(), t, 0.01);
}

// Without leakage and control the temperature is affine in the work's energy, at every time; with
// linear leakage still, the loop only amplifies.
TEST_F(Assumptions, TheThermalMapIsAffineInEnergy) {
  TwinParameters p = test::h100_twin();
  for (double leakage : {0.0, p.leakage_w_per_c}) {
    p.leakage_w_per_c = leakage;
    DigitalTwin twins[] = {DigitalTwin(p), DigitalTwin(p), DigitalTwin(p)};
    for (int step = 0; step < 400; ++step) {
      double t[3];
      for (int i = 0; i < 3; ++i) {
        CostEstimate work;
        work.latency_us = 20000;
        work.sm_active_frac = 0;
        work.bytes = 2e10 * i * (1 + step % 3);  // no step passes the cap
        twins[i].advance(work, 0.02);
        t[i] = twins[i].temperature_c();
      }
      ASSERT_NEAR(t[0] - 2 * t[1] + t[2], 0, 1e-9) << step;
      ASSERT_GT(t[1], t[0]) << step;
    }
  }
}

// Assumed, not measured (docs/device-model.md): power over the clock. And what prices made at one
// clock are wrong by at another.
TEST_F(Assumptions, ModelledPowerIsConvexInTheClockAndPricesDependOnIt) {
  const TwinParameters p = test::h100_twin();
  std::vector<double> clock, power;
  for (double mhz = p.clock_min_mhz; mhz <= p.clock_max_mhz; mhz += 15) {
    clock.push_back(mhz);
    power.push_back(power_w(p, mhz, 60, {1, 2.4e12, 2e14}));
  }
  EXPECT_TRUE(std::is_sorted(power.begin(), power.end()));
  EXPECT_LT(envelope_gap(clock, power).largest_frac, 1e-12);

  const KernelCostModel model(test::h100_profile(), cost_shape("qwen3-30b-a3b"));
  HardwareState state;
  const CostSurrogate fast = model.surrogate(16);
  for (double mhz : {1550.0, 1350.0}) {
    state.sm_clock_mhz = mhz;
    const CostSurrogate slow = model.surrogate(16, &state);
    std::printf(
        "  H100  %4.0f MHz against 1980: open_us %+.2f %%, open_mj %+.2f %%, c0_us %+.1f %%\n", mhz,
        100 * (slow.open_us / fast.open_us - 1), 100 * (slow.open_mj / fast.open_mj - 1),
        100 * (slow.c0_us / fast.c0_us - 1));
    EXPECT_NEAR(slow.open_us / fast.open_us, 1, 0.1);
    EXPECT_LT(slow.open_mj, fast.open_mj);
  }
}

}  // namespace
}  // namespace thermoe::cost
