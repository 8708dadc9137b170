// thermoe monitor on recorded traces and on a stand-in for the driver's library.
#include <arpa/inet.h>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include <array>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <sstream>
#include <string>
#include <vector>

#include "monitor_session.h"
#include "program.h"
#include "prometheus_export.h"
#include "thermoe/error.h"

namespace thermoe::app {
namespace {

std::string trace() {
  return std::string(THERMOE_SOURCE_DIR) + "/data/telemetry/h100-sxm-700w.csv";
}

std::vector<nlohmann::json> json_lines(const std::string& text) {
  std::vector<nlohmann::json> lines;
  std::istringstream stream(text);
  for (std::string line; std::getline(stream, line);) lines.push_back(nlohmann::json::parse(line));
  return lines;
}

TEST(Monitor, ReplaysARecordingAsJsonAndRecordsIt) {
  const std::string recording = ::testing::TempDir() + "thermoe_monitor.csv";
  const Outcome outcome = run("monitor --telemetry replay:" + trace() +
                              " --rate-hz 100 --duration-s 1 --json - --csv " + recording);
  ASSERT_EQ(outcome.status, 0) << outcome.error;
  EXPECT_EQ(outcome.error, "");
  const std::vector<nlohmann::json> lines = json_lines(outcome.out);
  ASSERT_GE(lines.size(), 3u);
  double last_s = -1;
  for (size_t n = 0; n + 1 < lines.size(); ++n) {
    EXPECT_GT(lines[n]["time_s"], last_s);
    last_s = lines[n]["time_s"];
    EXPECT_TRUE(lines[n]["power_limit_w"].is_null());  // the trace has none
  }
  EXPECT_EQ(lines[0]["temperature_c"], 60.0);
  const nlohmann::json& sums = lines.back();
  EXPECT_EQ(sums["summary"], true);
  EXPECT_EQ(sums["source"], "replay:h100-sxm-700w.csv");
  EXPECT_DOUBLE_EQ(sums["span_s"], last_s - lines[0]["time_s"].get<double>());
  EXPECT_GT(sums["energy_mj"], 0.0);

  const Outcome again = run("monitor --telemetry replay:" + recording + " --rate-hz 500 --json -");
  ASSERT_EQ(again.status, 0) << again.error;  // and ends with its trace
  const nlohmann::json repeated = json_lines(again.out).back();
  EXPECT_DOUBLE_EQ(repeated["span_s"], sums["span_s"]);
  std::filesystem::remove(recording);
}

TEST(Monitor, LabelsARecordingByThePhaseFile) {
  const std::string recording = ::testing::TempDir() + "thermoe_monitor_phases.csv";
  const std::string phase = ::testing::TempDir() + "thermoe_monitor_phase";
  std::ofstream(phase) << "gemm\nnot this\n";
  const std::string replay = "monitor --telemetry replay:" + trace() + " --rate-hz 100 ";
  Outcome outcome = run(replay + "--duration-s 0.3 --csv " + recording + " --phase-file " + phase);
  ASSERT_EQ(outcome.status, 0) << outcome.error;
  std::ifstream file(recording);
  std::string line;
  int rows = 0;
  for (std::getline(file, line); std::getline(file, line); ++rows)
    EXPECT_NE(line.find(",gemm,"), std::string::npos) << line;
  EXPECT_GE(rows, 3);
  outcome = run(replay + "--duration-s 0.1 --csv " + recording + " --phase-file /nowhere");
  EXPECT_EQ(outcome.status, 0) << outcome.error;  // not there yet
  expect_refusal(replay + "--phase-file " + phase, "--csv");
  std::filesystem::remove(recording);
  std::filesystem::remove(phase);
}

TEST(Monitor, PrintsWhatWasUsed) {
  const Outcome outcome =
      run("monitor --telemetry replay:" + trace() + " --rate-hz 100 --duration-s 0.5");
  ASSERT_EQ(outcome.status, 0) << outcome.error;
  for (const char* part : {"power, mean", "energy", "throttled, by the samples' reasons",
                           "time in the driver", "processor time"})
    EXPECT_NE(outcome.out.find(part), std::string::npos) << part << "\n" << outcome.out;
  EXPECT_EQ(outcome.error, "");  // no live table where standard error is no terminal
}

TEST(Monitor, ReadsTheDriversLibraryAndSaysThatItsCounterStandsStill) {
  ASSERT_EQ(setenv("THERMOE_NVML_LIBRARY", FAKE_NVML_WHOLE_PATH, 1), 0);
  const Outcome outcome = run("monitor --duration-s 1.3 --json -");
  const Outcome missing = run("monitor --telemetry nvml:7 --duration-s 1");
  unsetenv("THERMOE_NVML_LIBRARY");
  ASSERT_EQ(outcome.status, 0) << outcome.error;
  const nlohmann::json sums = json_lines(outcome.out).back();
  EXPECT_EQ(sums["device"], "NVIDIA H100 80GB HBM3");
  EXPECT_EQ(sums["counter_stalls"], 1);
  EXPECT_GE(sums["samples"], 20);
  // Its reasons say throttled all the time, its counters that it never was.
  EXPECT_EQ(sums["throttled"]["by"], "counters");
  EXPECT_EQ(sums["throttled_s"], 0.0);
  EXPECT_NEAR(sums["throttled"]["event_reasons_s"].get<double>(), sums["span_s"].get<double>(),
              1e-6);
  EXPECT_GT(sums["thread_cpu_s"], 0.0);
  EXPECT_LT(sums["thread_cpu_frac"], 0.05);
  EXPECT_EQ(sums["readings"]["energy_mj"]["validity"], "stale");
  EXPECT_EQ(sums["readings"]["tensor_active_frac"]["validity"], "valid");
  EXPECT_EQ(sums["readings"]["power_instant_w"]["scope"], "board");
  EXPECT_EQ(sums["readings"].size(), kReadings);
  EXPECT_EQ(missing.status, 2);
  EXPECT_NE(missing.error.find("no GPU with index 7"), std::string::npos) << missing.error;
}

// What a scraper gets of http://127.0.0.1:port/metrics.
std::string scrape(int port) {
  const int connection = ::socket(AF_INET, SOCK_STREAM, 0);
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_port = htons(static_cast<uint16_t>(port));
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  std::string text;
  if (::connect(connection, reinterpret_cast<const sockaddr*>(&address), sizeof address) == 0) {
    const std::string request = "GET /metrics HTTP/1.0\r\n\r\n";
    EXPECT_EQ(::send(connection, request.data(), request.size(), 0),
              static_cast<ssize_t>(request.size()));
    std::array<char, 4096> buffer;
    for (ssize_t n; (n = ::recv(connection, buffer.data(), buffer.size(), 0)) > 0;)
      text.append(buffer.data(), static_cast<size_t>(n));
  }
  ::close(connection);
  return text;
}

TEST(Monitor, PrometheusScrapesWhatIsThereAndNothingElse) {
  if (!PrometheusExport::available()) {
    expect_refusal("monitor --telemetry replay:" + trace() + " --prometheus :0",
                   "prometheus-cpp-dev");
    GTEST_SKIP() << "built without prometheus-cpp or cpp-httplib: only its refusal was tested";
  }
  GpuSystemMonitor monitor(open_replay_source(trace()));
  const HardwareState state = monitor.poll();
  const PrometheusExport served("127.0.0.1:0", {{3, &monitor}});
  const std::string text = scrape(served.port());
  const std::string labels =
      "{gpu=\"3\",UUID=\"\",device=\"nvidia3\",modelName=\"replay of h100-sxm-700w.csv\"} ";
  for (const std::string& line :
       std::vector<std::string>{"# TYPE DCGM_FI_DEV_POWER_USAGE gauge\n",
                                "# TYPE DCGM_FI_DEV_TOTAL_ENERGY_CONSUMPTION counter\n",
                                "DCGM_FI_DEV_GPU_TEMP" + labels + "60\n",
                                "thermoe_monitor_samples_total" + labels + "1\n",
                                "thermoe_gpu_present" + labels + "1\n"})
    EXPECT_NE(text.find(line), std::string::npos) << line << "\n" << text;
  for (const char* name : {"VIOLATION", "PROF_"})  // not in that trace: absent is not zero
    EXPECT_EQ(text.find(name), std::string::npos) << name;
  ASSERT_FALSE(state.power_limit_w);
  EXPECT_EQ(text.find("POWER_LIMIT"), std::string::npos);
  EXPECT_THROW(PrometheusExport("127.0.0.1:" + std::to_string(served.port()), {{3, &monitor}}),
               InvalidArgument);
  for (const char* address : {"9400", ":x", ":70000", ""})
    EXPECT_THROW(PrometheusExport(address, {}), InvalidArgument) << address;
}

TEST(Monitor, PrometheusGetsDcgmsUnits) {
  if (!PrometheusExport::available()) GTEST_SKIP() << "built without prometheus-cpp or cpp-httplib";
  const std::string path = ::testing::TempDir() + "thermoe_monitor_units.csv";
  std::ofstream(path) << "time_s,throttled_power_cap_s,throttled_thermal_s,tensor_active_frac,"
                         "dram_active_frac\n0,1.5,0.25,0.625,0.5\n";
  GpuSystemMonitor monitor(open_replay_source(path));
  monitor.poll();
  const PrometheusExport served("127.0.0.1:0", {{0, &monitor}});
  const std::string text = scrape(served.port());
  const std::string labels =
      "{gpu=\"0\",UUID=\"\",device=\"nvidia0\",modelName=\"replay of thermoe_monitor_units.csv\"} ";
  for (const std::string& line :
       std::vector<std::string>{"# TYPE DCGM_FI_DEV_POWER_VIOLATION counter\n",
                                "DCGM_FI_DEV_POWER_VIOLATION" + labels + "1500000000\n",  // ns
                                "DCGM_FI_DEV_THERMAL_VIOLATION" + labels + "250000000\n",
                                "DCGM_FI_PROF_PIPE_TENSOR_ACTIVE" + labels + "0.625\n",
                                "DCGM_FI_PROF_DRAM_ACTIVE" + labels + "0.5\n"})
    EXPECT_NE(text.find(line), std::string::npos) << line << "\n" << text;
  std::filesystem::remove(path);
}

TEST(Monitor, RefusesWhatItCannotDo) {
  expect_refusal("monitor --telemetry guess", "known are auto");
  expect_refusal("monitor --telemetry nvml:x", "nvml:0 is the first");
  expect_refusal("monitor --telemetry replay:/nowhere.csv", "/nowhere.csv");
  expect_refusal("monitor --telemetry replay:" + trace() + " --csv /nowhere/at/all.csv",
                 "/nowhere/at/all.csv");
  expect_refusal("monitor --telemetry replay:" + trace() + " --json file.json", "--json -");
}

TEST(Monitor, NamesWhatHoldsTheClockBack) {
  EXPECT_EQ(throttle_text(0), "-");
  EXPECT_EQ(throttle_text(0x1), "-");  // idle holds nothing back
  EXPECT_EQ(throttle_text(kThrottleSoftwarePowerCap), "power cap");
  EXPECT_EQ(throttle_text(kThrottlePowerBrake | kThrottleHardwareThermal),
            "power brake, hardware thermal");
}

}  // namespace
}  // namespace thermoe::app
