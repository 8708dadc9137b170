#include <gtest/gtest.h>

#include <cmath>
#include <filesystem>
#include <fstream>
#include <string>

#include "telemetry/trace_csv.h"
#include "thermoe/error.h"
#include "thermoe/gpu_system_monitor.h"

namespace thermoe {
namespace {

const std::string kRecorded = THERMOE_SOURCE_DIR "/data/telemetry/h100-sxm-700w.csv";

class Replay : public ::testing::Test {
 protected:
  void SetUp() override {
    const auto* info = ::testing::UnitTest::GetInstance()->current_test_info();
    path_ = std::filesystem::path(::testing::TempDir()) /
            (std::string("thermoe_replay_") + info->name() + ".csv");
  }
  void TearDown() override { std::filesystem::remove(path_); }

  std::string write(const std::string& text) {
    std::ofstream(path_, std::ios::binary) << text;
    return path_.string();
  }
  // The message of the IoError that a trace of `text` raises.
  std::string error_of(const std::string& text) {
    const std::string path = write(text);
    try {
      (void)open_replay_source(path);
    } catch (const IoError& error) {
      EXPECT_EQ(error.path(), path);
      EXPECT_EQ(std::string(error.what()).find(path + ": "), 0u);
      return error.what();
    }
    ADD_FAILURE() << "no IoError for: " << text;
    return "";
  }

 private:
  std::filesystem::path path_;
};

#define EXPECT_MENTIONS(text, part) \
  EXPECT_NE(text.find(part), std::string::npos) << text << "\n lacks " << part

TEST_F(Replay, PlaysTheRecordedTrace) {
  const auto source = open_replay_source(kRecorded, 0.05);
  EXPECT_EQ(source->name(), "replay:h100-sxm-700w.csv");
  EXPECT_TRUE(source->device().simulated);

  const HardwareState first = source->sample();
  EXPECT_TRUE(first.present);
  EXPECT_EQ(first.time_s, 0.0);
  EXPECT_EQ(first.temperature_c, 60.0);
  EXPECT_EQ(first.memory_temperature_c, 51.0);
  EXPECT_EQ(first.power_instant_w, 548.7);
  EXPECT_EQ(first.power_average_w, 701.1);
  EXPECT_EQ(first.sm_clock_mhz, 1245.0);
  EXPECT_EQ(first.sm_clock_max_mhz, 1980.0);  // the highest in the trace
  EXPECT_EQ(first.mem_clock_mhz, 2619.0);
  EXPECT_EQ(first.energy_mj, 6545876.0);
  EXPECT_EQ(first.throttle_reasons, kThrottleSoftwarePowerCap);
  EXPECT_TRUE(first.throttled());
  EXPECT_FALSE(first.power_limit_w);  // not in the trace: absent, not zero
  EXPECT_FALSE(first.temperature_limit_c);

  HardwareState last = first;
  double lag_max_s = 0.0;
  int samples = 1;
  for (; samples < 2181; ++samples) {
    const HardwareState state = source->sample();
    ASSERT_GE(state.time_s, last.time_s);
    ASSERT_LE(state.time_s, samples * 0.05 + 1e-9);
    lag_max_s = std::max(lag_max_s, samples * 0.05 - state.time_s);
    last = state;
  }
  EXPECT_LT(lag_max_s, 0.2);                    // rows are about 25 ms apart
  EXPECT_EQ(last.time_s, 108.971);              // 2180 * 0.05 = 109 s
  EXPECT_EQ(source->sample().time_s, 108.971);  // and there it stays
  EXPECT_EQ(last.throttle_reasons, 0u);
  EXPECT_FALSE(last.throttled());
}

// An independent look at the same file: energy counter against integrated instantaneous power.
TEST_F(Replay, RecordedPowerAgreesWithItsEnergyCounter) {
  const std::vector<HardwareState> rows = read_trace_csv(kRecorded);
  ASSERT_EQ(rows.size(), 4288u);
  double integrated_j = 0.0;
  for (size_t i = 1; i < rows.size(); ++i) {
    integrated_j += *rows[i].power_instant_w * (rows[i].time_s - rows[i - 1].time_s);
  }
  const double counted_j = (*rows.back().energy_mj - *rows.front().energy_mj) * 1e-3;
  EXPECT_NEAR(integrated_j / counted_j, 1.0, 0.02);
}

TEST_F(Replay, FeedsTheMonitor) {
  GpuSystemMonitor monitor(open_replay_source(kRecorded, 1.0));
  for (int i = 0; i < 31; ++i) monitor.poll();
  const HardwareState state = monitor.state();  // 30 s: the sustained product at the cap
  EXPECT_NEAR(state.time_s, 30.0, 0.05);
  EXPECT_TRUE(state.throttled());
  EXPECT_NEAR(*state.power_average_w, 700.0, 10.0);
}

TEST_F(Replay, TakesColumnsInAnyOrderAndCellsThatAreMissing) {
  const std::string path = write(
      "power_limit_w,note,temp_c, time_s ,sm_clock_mhz,temperature_limit_c\r\n"
      "700,hello,,1.5,1000,87\r\n"
      "\r\n"
      ",,,2.5,,\r\n"
      ",x,41,3.5,,\r\n");
  const auto source = open_replay_source(path, 1.0);
  const HardwareState first = source->sample();
  EXPECT_EQ(first.time_s, 1.5);
  EXPECT_EQ(first.power_limit_w, 700.0);
  EXPECT_EQ(first.temperature_limit_c, 87.0);
  EXPECT_FALSE(first.temperature_c);
  EXPECT_FALSE(first.throttle_reasons);
  const HardwareState lost = source->sample();
  EXPECT_EQ(lost.time_s, 2.5);
  EXPECT_FALSE(lost.present);
  EXPECT_FALSE(lost.sm_clock_max_mhz);
  const HardwareState back = source->sample();
  EXPECT_TRUE(back.present);
  EXPECT_EQ(back.temperature_c, 41.0);
  EXPECT_FALSE(back.sm_clock_mhz);
  EXPECT_EQ(back.sm_clock_max_mhz, 1000.0);
}

TEST_F(Replay, NeedsOnlyTheTime) {
  const auto source = open_replay_source(write("time_s\n0\n1\n"), 0.5);
  EXPECT_EQ(source->sample().time_s, 0.0);
  EXPECT_EQ(source->sample().time_s, 0.0);
  EXPECT_EQ(source->sample().time_s, 1.0);
  EXPECT_FALSE(source->sample().present);
}

TEST_F(Replay, NamesLineAndColumnOfWhatIsMalformed) {
  std::string what = error_of("time_s,temp_c\n0,40\n1,warm\n");
  EXPECT_MENTIONS(what, "line 3, column temp_c");
  EXPECT_MENTIONS(what, "'warm'");
  what = error_of("time_s,temp_c\n0,nan\n");
  EXPECT_MENTIONS(what, "line 2, column temp_c");
  what = error_of("time_s,temp_c\n0,1e999\n");
  EXPECT_MENTIONS(what, "line 2, column temp_c");
  what = error_of("time_s,clocks_event_reasons\n0,-4\n");
  EXPECT_MENTIONS(what, "line 2, column clocks_event_reasons");
  what = error_of("time_s,temp_c,mem_temp_c\n0,40,41\n1,40\n");
  EXPECT_MENTIONS(what, "line 3, column mem_temp_c");
  EXPECT_MENTIONS(what, "2 cells");
  what = error_of("time_s,temp_c\n0,40,41\n");
  EXPECT_MENTIONS(what, "line 2");
  what = error_of("time_s,temp_c\n,40\n");
  EXPECT_MENTIONS(what, "line 2, column time_s");
  what = error_of("time_s\n2\n1\n");
  EXPECT_MENTIONS(what, "line 3, column time_s");
  what = error_of("time,temp_c\n0,40\n");
  EXPECT_MENTIONS(what, "column time_s: is missing");
  what = error_of("time_s,temp_c,temp_c\n0,40,40\n");
  EXPECT_MENTIONS(what, "column temp_c: appears twice");
  what = error_of("time_s\n");
  EXPECT_MENTIONS(what, "no rows");
  what = error_of("");
  EXPECT_MENTIONS(what, "empty");
}

TEST_F(Replay, RefusesFilesThatAreNotThereAndPeriodsThatAreNone) {
  EXPECT_THROW((void)open_replay_source("/nonexistent/trace.csv"), IoError);
  EXPECT_THROW((void)open_replay_source(::testing::TempDir()), IoError);
  EXPECT_THROW((void)open_replay_source(kRecorded, 0.0), InvalidArgument);
  EXPECT_THROW((void)open_replay_source(kRecorded, std::nan("")), InvalidArgument);
}

}  // namespace
}  // namespace thermoe
