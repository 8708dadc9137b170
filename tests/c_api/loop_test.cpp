// Telemetry, costs and the governor through the C interface, against the library's own.
#include <gtest/gtest.h>

#include <cmath>
#include <string>

#include "thermoe/c_api.h"
#include "thermoe/digital_twin.h"
#include "thermoe/governor.h"

namespace thermoe {
namespace {

const std::string kData = std::string(THERMOE_SOURCE_DIR) + "/data/";
const std::string kProfile = kData + "profiles/h100-sxm.json";
const std::string kTwin = kData + "profiles/h100-sxm-power.json";
const std::string kTrace = kData + "telemetry/h100-sxm-700w.csv";

template <typename T>
T sized() {
  T record{};
  record.struct_size = sizeof(T);
  return record;
}

// Handles of one test, closed at its end.
struct Handles {
  ~Handles() {
    thermoe_monitor_close(monitor);
    thermoe_cost_model_close(model);
    thermoe_governor_close(governor);
  }
  thermoe_status open_monitor(const std::string& source, double rate_hz = 0) {
    auto options = sized<thermoe_monitor_options>();
    options.source = source.c_str();
    options.rate_hz = rate_hz;
    return thermoe_monitor_open(&options, &monitor);
  }
  thermoe_status open_model(const char* shape = "qwen3-30b-a3b") {
    auto options = sized<thermoe_cost_model_options>();
    options.profile = kProfile.c_str();
    options.shape = shape;
    return thermoe_cost_model_open(&options, &model);
  }
  thermoe_monitor* monitor = nullptr;
  thermoe_cost_model* model = nullptr;
  thermoe_governor* governor = nullptr;
};

TEST(CApiLoop, AReplayIsReadAsTheLibraryReadsIt) {
  Handles handles;
  ASSERT_EQ(handles.open_monitor("replay:" + kTrace), THERMOE_OK) << thermoe_last_error();
  GpuSystemMonitor mine(open_replay_source(kTrace));
  EXPECT_EQ(thermoe_monitor_source(handles.monitor), mine.source_name());
  for (int n = 0; n < 5; ++n) {
    auto got = sized<thermoe_hardware_state>();
    ASSERT_EQ(thermoe_monitor_poll(handles.monitor, &got), THERMOE_OK) << thermoe_last_error();
    const HardwareState want = mine.poll();
    EXPECT_EQ(got.time_s, want.time_s);
    EXPECT_EQ(got.present, want.present ? 1 : 0);
    ASSERT_TRUE(want.temperature_c.has_value());
    EXPECT_EQ(got.temperature_c, *want.temperature_c);
    EXPECT_EQ(std::isnan(got.power_instant_w), !want.power_instant_w.has_value());
    EXPECT_EQ(std::isnan(got.memory_temperature_c), !want.memory_temperature_c.has_value());
    auto newest = sized<thermoe_hardware_state>();
    ASSERT_EQ(thermoe_monitor_state(handles.monitor, &newest), THERMOE_OK);
    EXPECT_EQ(newest.time_s, got.time_s);
  }
  ASSERT_EQ(thermoe_monitor_start(handles.monitor), THERMOE_OK);
  auto state = sized<thermoe_hardware_state>();
  EXPECT_EQ(thermoe_monitor_poll(handles.monitor, &state), THERMOE_INVALID_ARGUMENT);
  ASSERT_EQ(thermoe_monitor_stop(handles.monitor), THERMOE_OK);
  auto work = sized<thermoe_cost_estimate>();
  EXPECT_EQ(thermoe_monitor_advance_twin(handles.monitor, &work, 1), THERMOE_INVALID_ARGUMENT);
  EXPECT_NE(std::string(thermoe_last_error()).find("is no twin"), std::string::npos);
}

TEST(CApiLoop, ATwinHeatsUpUnderWork) {
  Handles handles;
  ASSERT_EQ(handles.open_monitor("twin:" + kTwin), THERMOE_OK) << thermoe_last_error();
  ASSERT_EQ(handles.open_model(), THERMOE_OK) << thermoe_last_error();
  auto environment = sized<thermoe_twin_environment>();
  environment.power_cap_w = 450;
  ASSERT_EQ(thermoe_monitor_set_twin(handles.monitor, &environment), THERMOE_OK);
  auto work = sized<thermoe_cost_estimate>();
  ASSERT_EQ(thermoe_cost_model_layer(handles.model, 4096, 128, 32768, nullptr, &work), THERMOE_OK)
      << thermoe_last_error();
  auto before = sized<thermoe_hardware_state>(), after = before;
  ASSERT_EQ(thermoe_monitor_poll(handles.monitor, &before), THERMOE_OK);
  // The monitor's thread reads the twin while it moves.
  ASSERT_EQ(thermoe_monitor_start(handles.monitor), THERMOE_OK);
  for (int n = 0; n < 20000; ++n)
    ASSERT_EQ(thermoe_monitor_advance_twin(handles.monitor, &work, 0), THERMOE_OK)
        << thermoe_last_error();
  ASSERT_EQ(thermoe_monitor_stop(handles.monitor), THERMOE_OK);
  ASSERT_EQ(thermoe_monitor_poll(handles.monitor, &after), THERMOE_OK);
  EXPECT_GT(after.temperature_c, before.temperature_c + 5);
  EXPECT_LT(after.power_average_w, 460);
  EXPECT_EQ(after.throttle_reasons_known, 1);
  EXPECT_NE(after.throttle_reasons & kThrottleSoftwarePowerCap, 0u);
  EXPECT_EQ(thermoe_monitor_advance_twin(handles.monitor, &work, 1e9), THERMOE_INVALID_ARGUMENT);
  EXPECT_EQ(thermoe_monitor_advance_twin(handles.monitor, &work, NAN), THERMOE_INVALID_ARGUMENT);
}

TEST(CApiLoop, SourcesThatAreNone) {
  Handles handles;
  EXPECT_EQ(handles.open_monitor("nvml:-1"), THERMOE_INVALID_ARGUMENT);
  EXPECT_EQ(handles.open_monitor("nvml:0x"), THERMOE_INVALID_ARGUMENT);
  EXPECT_EQ(handles.open_monitor("elsewhere"), THERMOE_INVALID_ARGUMENT);
  EXPECT_EQ(handles.open_monitor("twin:" + kTrace), THERMOE_IO_ERROR);
  EXPECT_EQ(handles.open_monitor("replay:" + kTrace, NAN), THERMOE_INVALID_ARGUMENT);
  EXPECT_EQ(handles.monitor, nullptr);
}

TEST(CApiLoop, CostsAreTheLibrarys) {
  Handles handles;
  ASSERT_EQ(handles.open_model(), THERMOE_OK) << thermoe_last_error();
  const KernelCostModel mine(kProfile, cost_shape("qwen3-30b-a3b"));
  auto state = sized<thermoe_hardware_state>();
  ASSERT_EQ(thermoe_hardware_state_missing(&state), THERMOE_OK);
  state.sm_clock_mhz = 1200;
  state.temperature_c = 70;
  HardwareState same;
  same.present = true;
  same.sm_clock_mhz = 1200;
  same.temperature_c = 70;
  for (const bool stated : {false, true}) {
    auto got = sized<thermoe_cost_estimate>();
    ASSERT_EQ(thermoe_cost_model_layer(handles.model, 16, 80, 128, stated ? &state : nullptr, &got),
              THERMOE_OK)
        << thermoe_last_error();
    const CostEstimate want = mine.moe_layer({16, 80, 128}, stated ? &same : nullptr);
    EXPECT_EQ(got.latency_us, want.latency_us);
    EXPECT_EQ(got.energy_mj, want.energy_mj);
    EXPECT_EQ(got.cost_source, static_cast<int32_t>(want.source));
    EXPECT_GT(got.latency_us, 0);
  }
  auto surrogate = sized<thermoe_cost_surrogate>();
  ASSERT_EQ(thermoe_cost_model_surrogate(handles.model, 16, nullptr, &surrogate), THERMOE_OK);
  EXPECT_EQ(surrogate.open_us, mine.surrogate(16).open_us);

  auto out = sized<thermoe_cost_estimate>();
  EXPECT_EQ(thermoe_cost_model_layer(handles.model, 16, NAN, 128, nullptr, &out),
            THERMOE_INVALID_ARGUMENT);
  EXPECT_EQ(thermoe_cost_model_layer(handles.model, 16, 1e9, 128, nullptr, &out),
            THERMOE_INVALID_ARGUMENT);
  EXPECT_EQ(thermoe_cost_model_surrogate(handles.model, INFINITY, nullptr, &surrogate),
            THERMOE_INVALID_ARGUMENT);
}

TEST(CApiLoop, ShapesByNameOrBySize) {
  Handles named;
  EXPECT_EQ(named.open_model("no-such-model"), THERMOE_INVALID_ARGUMENT);
  auto options = sized<thermoe_cost_model_options>();
  options.profile = kProfile.c_str();
  options.hidden_size = 2048;
  options.expert_inter_size = 768;
  options.experts = 128;
  options.top_k = 8;
  options.layers = 48;
  ASSERT_EQ(thermoe_cost_model_open(&options, &named.model), THERMOE_OK) << thermoe_last_error();
  Handles same;
  ASSERT_EQ(same.open_model(), THERMOE_OK);
  auto a = sized<thermoe_cost_estimate>(), b = a;
  ASSERT_EQ(thermoe_cost_model_layer(named.model, 64, 120, 512, nullptr, &a), THERMOE_OK);
  ASSERT_EQ(thermoe_cost_model_layer(same.model, 64, 120, 512, nullptr, &b), THERMOE_OK);
  EXPECT_EQ(a.latency_us, b.latency_us);
  options.dtype = "no-such-type";
  thermoe_cost_model* model = nullptr;
  EXPECT_EQ(thermoe_cost_model_open(&options, &model), THERMOE_PROFILE_MISS);
  options.dtype = nullptr;
  options.experts = 0;
  EXPECT_EQ(thermoe_cost_model_open(&options, &model), THERMOE_INVALID_ARGUMENT);
  EXPECT_EQ(model, nullptr);
}

TEST(CApiLoop, TheGovernorIsTheLibrarys) {
  Handles handles;
  ASSERT_EQ(handles.open_model(), THERMOE_OK);
  auto surrogate = sized<thermoe_cost_surrogate>();
  ASSERT_EQ(thermoe_cost_model_surrogate(handles.model, 16, nullptr, &surrogate), THERMOE_OK);
  auto limits = sized<thermoe_governor_limits>();
  limits.power_cap_w = 500;
  ASSERT_EQ(thermoe_governor_create(&limits, &surrogate, &handles.governor), THERMOE_OK)
      << thermoe_last_error();
  const CostSurrogate same = KernelCostModel(kProfile, cost_shape("qwen3-30b-a3b")).surrogate(16);
  GovernorLimits my_limits;
  my_limits.power_cap_w = 500;
  Governor mine(my_limits, same);
  auto state = sized<thermoe_hardware_state>();
  ASSERT_EQ(thermoe_hardware_state_missing(&state), THERMOE_OK);
  state.power_average_w = 620;
  HardwareState my_state;
  my_state.present = true;
  my_state.power_average_w = 620;
  auto multipliers = sized<thermoe_multipliers>();
  for (int tick = 0; tick < 10; ++tick) {
    ASSERT_EQ(thermoe_governor_update(handles.governor, &state, NAN, 0.1, &multipliers), THERMOE_OK)
        << thermoe_last_error();
    const Multipliers want = mine.update(my_state, std::nullopt, 0.1);
    EXPECT_EQ(multipliers.per_mj, want.per_mj);
    EXPECT_EQ(multipliers.per_us, want.per_us);
  }
  EXPECT_GT(multipliers.per_mj, 0);
  float open[128], slope[128];
  ASSERT_EQ(thermoe_governor_prices(handles.governor, &surrogate, nullptr, 128, open, slope),
            THERMOE_OK);
  const ExpertPrices want = mine.prices(same, 128);
  EXPECT_EQ(open[7], want.open[7]);
  EXPECT_EQ(slope[7], want.slope[7]);

  EXPECT_EQ(thermoe_governor_update(handles.governor, &state, -1, 0.1, nullptr),
            THERMOE_INVALID_ARGUMENT);
  EXPECT_EQ(thermoe_governor_update(handles.governor, &state, NAN, NAN, nullptr),
            THERMOE_INVALID_ARGUMENT);
  limits.power_cap_w = NAN;
  EXPECT_EQ(thermoe_governor_set_limits(handles.governor, &limits), THERMOE_INVALID_ARGUMENT);
  EXPECT_EQ(std::string(thermoe_last_error()),
            "Governor: power_cap_w is nan; give a positive number");
}

}  // namespace
}  // namespace thermoe
