// The CPU's sensors on folders made up like /proc and /sys.
#include "cpu_sensors.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <string>

namespace thermoe::app {
namespace {

namespace fs = std::filesystem;

class CpuSensorsTest : public ::testing::Test {
 protected:
  CpuSensorsTest()
      : root_(fs::temp_directory_path() / ("thermoe-sensors-" + std::to_string(::getpid()))) {
    fs::remove_all(root_);
    fs::create_directories(root_);
  }
  ~CpuSensorsTest() override { fs::remove_all(root_); }

  void write(const std::string& file, const std::string& text) {
    fs::create_directories((root_ / file).parent_path());
    std::ofstream(root_ / file) << text;
  }
  void zone(const std::string& name, const std::string& is, const std::string& energy_uj) {
    const std::string folder = "sys/class/powercap/" + name;
    write(folder + "/name", is + "\n");
    write(folder + "/energy_uj", energy_uj + "\n");
    write(folder + "/max_energy_range_uj", "1000000000\n");
  }
  void cpu(int number, const std::string& file, const std::string& text) {
    write("sys/devices/system/cpu/cpu" + std::to_string(number) + "/" + file, text);
  }
  CpuSensors sensors() const { return CpuSensors(root_); }

  fs::path root_;
};

TEST_F(CpuSensorsTest, WhatIsNotThereIsAbsent) {
  const CpuSensors nothing = sensors();
  EXPECT_EQ(nothing.name(), "unknown processor");
  EXPECT_FALSE(nothing.last_level_cache_bytes());
  EXPECT_FALSE(nothing.clock_mhz(2));
  EXPECT_FALSE(nothing.power_limit_w());
  const CpuSensors::Counters counters = nothing.read();
  EXPECT_FALSE(counters.throttle_events);
  EXPECT_FALSE(nothing.energy_j(counters, counters));  // not zero
}

TEST_F(CpuSensorsTest, EnergyIsThatOfPackagesAndTheirMemory) {
  zone("intel-rapl:0", "package-0", "5000000");
  zone("intel-rapl:0:0", "core", "100");
  zone("intel-rapl:0:1", "dram", "2000000");
  zone("intel-rapl:1", "psys", "100");
  zone("intel-rapl-mmio:0", "package-0", "100");  // the first once more
  const CpuSensors s = sensors();
  const auto before = s.read();
  EXPECT_EQ(before.energy_uj.size(), 2u);
  zone("intel-rapl:0", "package-0", "8000000");
  zone("intel-rapl:0:0", "core", "900000000");
  zone("intel-rapl:0:1", "dram", "2500000");
  EXPECT_DOUBLE_EQ(s.energy_j(before, s.read()).value(), 3.5);
}

TEST_F(CpuSensorsTest, EnergyCountersWrapAround) {
  zone("intel-rapl:0", "package-0", "999000000");
  const CpuSensors s = sensors();
  const auto before = s.read();
  zone("intel-rapl:0", "package-0", "2000000");
  EXPECT_DOUBLE_EQ(s.energy_j(before, s.read()).value(), 3.0);

  fs::remove(root_ / "sys/class/powercap/intel-rapl:0/max_energy_range_uj");
  EXPECT_FALSE(sensors().energy_j(before, s.read()));  // nobody knows where it wraps
}

TEST_F(CpuSensorsTest, AnUnreadableZoneMakesTheEnergyAbsent) {
  zone("intel-rapl:0", "package-0", "1000000");
  zone("intel-rapl:1", "package-1", "1000000");
  const CpuSensors s = sensors();
  const auto before = s.read();
  zone("intel-rapl:0", "package-0", "2000000");
  // As where only root may read it; root itself reads whatever the mode.
  fs::remove(root_ / "sys/class/powercap/intel-rapl:1/energy_uj");
  EXPECT_FALSE(s.energy_j(before, s.read()));
  EXPECT_FALSE(s.energy_j(s.read(), s.read()));
}

TEST_F(CpuSensorsTest, LimitsOfAllPackagesAddUp) {
  zone("intel-rapl:0", "package-0", "1");
  zone("intel-rapl:1", "package-1", "1");
  write("sys/class/powercap/intel-rapl:0/constraint_0_power_limit_uw", "150000000\n");
  EXPECT_FALSE(sensors().power_limit_w());
  write("sys/class/powercap/intel-rapl:1/constraint_0_power_limit_uw", "150000000\n");
  EXPECT_DOUBLE_EQ(sensors().power_limit_w().value(), 300);
}

TEST_F(CpuSensorsTest, ThrottleEventsOfAllCoresAddUp) {
  cpu(0, "thermal_throttle/core_throttle_count", "3\n");
  cpu(0, "thermal_throttle/package_throttle_count", "4\n");
  cpu(1, "thermal_throttle/core_throttle_count", "0\n");
  EXPECT_EQ(sensors().read().throttle_events, 7u);
}

TEST_F(CpuSensorsTest, ClocksAreThoseOfTheBusiestCores) {
  write("proc/cpuinfo",
        "model name\t: A, B\ncpu MHz\t\t: 1000.5\n\nmodel name\t: A, B\ncpu MHz\t\t: 3000.5\n");
  EXPECT_EQ(sensors().name(), "A, B");
  EXPECT_DOUBLE_EQ(sensors().clock_mhz(2).value(), 2000.5);
  EXPECT_DOUBLE_EQ(sensors().clock_mhz(1).value(), 3000.5);
  EXPECT_DOUBLE_EQ(sensors().clock_mhz(8).value(), 2000.5);
  cpu(0, "cpufreq/scaling_cur_freq", "2500000\n");  // says it better
  EXPECT_DOUBLE_EQ(sensors().clock_mhz(1).value(), 2500);
}

TEST_F(CpuSensorsTest, SharedCachesCountOnce) {
  for (int c = 0; c < 4; ++c) {
    cpu(c, "cache/index0/level", "1\n");
    cpu(c, "cache/index0/type", "Data\n");
    cpu(c, "cache/index0/size", "32K\n");
    cpu(c, "cache/index0/shared_cpu_list", std::to_string(c) + "\n");
    cpu(c, "cache/index3/level", "3\n");
    cpu(c, "cache/index3/type", "Unified\n");
    cpu(c, "cache/index3/size", "32M\n");
    cpu(c, "cache/index3/shared_cpu_list", c < 2 ? "0-1\n" : "2-3\n");
  }
  EXPECT_EQ(sensors().last_level_cache_bytes(), int64_t{64} << 20);
}

}  // namespace
}  // namespace thermoe::app
