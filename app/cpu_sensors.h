// What the kernel tells of the CPU: its name, caches, clock, energy and thermal throttling.
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

namespace thermoe::app {

// Reads /proc and /sys at each call. Constant and thread-safe. What a machine has none of, or
// doesn't let this user read, is absent.
class CpuSensors {
 public:
  // `root`: the folder that holds proc and sys.
  explicit CpuSensors(const std::filesystem::path& root = "/");

  // "model name" of /proc/cpuinfo; "unknown processor" where there is none.
  std::string name() const;
  // Bytes of all caches of the last level together; absent in some virtual machines.
  std::optional<int64_t> last_level_cache_bytes() const;
  // Mean of the `cores` highest clocks: the cores that work. From cpufreq, else /proc/cpuinfo.
  std::optional<double> clock_mhz(int cores) const;
  // Sum of the packages' long-term limits (RAPL).
  std::optional<double> power_limit_w() const;

  // Counters at one moment. Empty or absent: not readable.
  struct Counters {
    std::vector<uint64_t> energy_uj;  // of each zone
    std::optional<uint64_t> throttle_events;
  };
  Counters read() const;
  // Joules that packages and their memory used between two reads, each zone's counter wrapping
  // around once at most (a minute at least at any power). Absent where a zone isn't readable.
  std::optional<double> energy_j(const Counters& before, const Counters& after) const;

 private:
  struct Zone {
    std::filesystem::path folder;
    uint64_t range_uj = 0;  // the counter wraps around beyond it
    bool package = false;
  };
  std::filesystem::path root_;
  std::vector<std::filesystem::path> cpus_;
  std::vector<Zone> zones_;  // packages and their memory
};

}  // namespace thermoe::app
