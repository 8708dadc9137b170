#include "cpu_sensors.h"

#include <algorithm>
#include <cctype>
#include <charconv>
#include <fstream>
#include <functional>
#include <map>
#include <numeric>

namespace thermoe::app {
namespace {

namespace fs = std::filesystem;

std::optional<std::string> first_line(const fs::path& file) {
  std::ifstream stream(file);
  std::string line;
  if (!std::getline(stream, line)) return std::nullopt;
  return line;
}

std::optional<uint64_t> number_in(const fs::path& file) {
  const std::optional<std::string> line = first_line(file);
  uint64_t value = 0;
  if (!line || std::from_chars(line->data(), line->data() + line->size(), value).ec != std::errc())
    return std::nullopt;
  return value;
}

// The entries of a folder whose names begin with `prefix` and a digit, in order.
std::vector<fs::path> numbered(const fs::path& folder, const std::string& prefix) {
  std::vector<fs::path> found;
  std::error_code none;
  for (const auto& entry : fs::directory_iterator(folder, none)) {
    const std::string name = entry.path().filename().string();
    if (name.size() > prefix.size() && name.starts_with(prefix) &&
        std::isdigit(static_cast<unsigned char>(name[prefix.size()])) != 0)
      found.push_back(entry.path());
  }
  std::sort(found.begin(), found.end());
  return found;
}

// Values of a field of /proc/cpuinfo, one a processor.
std::vector<std::string> cpuinfo(const fs::path& root, const std::string& field) {
  std::vector<std::string> values;
  std::ifstream file(root / "proc/cpuinfo");
  for (std::string line; std::getline(file, line);) {
    const size_t colon = line.find(": ");
    if (line.starts_with(field) && colon != std::string::npos)
      values.push_back(line.substr(colon + 2));
  }
  return values;
}

// "512K", "32M"
int64_t bytes_of(const std::string& size) {
  int64_t value = 0;
  const auto [end, error] = std::from_chars(size.data(), size.data() + size.size(), value);
  if (error != std::errc()) return 0;
  const char unit = end == size.data() + size.size() ? ' ' : *end;
  return value << (unit == 'K' ? 10 : unit == 'M' ? 20 : unit == 'G' ? 30 : 0);
}

}  // namespace

CpuSensors::CpuSensors(const fs::path& root)
    : root_(root), cpus_(numbered(root / "sys/devices/system/cpu", "cpu")) {
  for (const fs::path& folder : numbered(root / "sys/class/powercap", "intel-rapl:")) {
    const std::string name = first_line(folder / "name").value_or("");
    // Not "core" and "uncore", which the package counts, nor "psys", which counts the package.
    const bool package = name.starts_with("package");
    if (package || name == "dram")
      zones_.push_back({folder, number_in(folder / "max_energy_range_uj").value_or(0), package});
  }
}

std::string CpuSensors::name() const {
  const std::vector<std::string> names = cpuinfo(root_, "model name");
  return names.empty() ? "unknown processor" : names.front();
}

std::optional<int64_t> CpuSensors::last_level_cache_bytes() const {
  uint64_t highest = 0;
  std::map<std::string, int64_t> bytes;  // by the processors that share the cache
  for (const fs::path& cpu : cpus_)
    for (const fs::path& cache : numbered(cpu / "cache", "index")) {
      const uint64_t level = number_in(cache / "level").value_or(0);
      if (level < highest || first_line(cache / "type") == "Instruction") continue;
      if (level > highest) bytes.clear();
      highest = level;
      bytes[first_line(cache / "shared_cpu_list").value_or(cpu.string())] =
          bytes_of(first_line(cache / "size").value_or(""));
    }
  int64_t total = 0;
  for (const auto& [sharers, size] : bytes) total += size;
  return total > 0 ? std::optional(total) : std::nullopt;
}

std::optional<double> CpuSensors::clock_mhz(int cores) const {
  std::vector<double> clocks;
  for (const fs::path& cpu : cpus_)
    if (const auto khz = number_in(cpu / "cpufreq/scaling_cur_freq"))
      clocks.push_back(static_cast<double>(*khz) * 1e-3);
  if (clocks.empty())
    for (const std::string& mhz : cpuinfo(root_, "cpu MHz")) {
      double value = 0;
      if (std::from_chars(mhz.data(), mhz.data() + mhz.size(), value).ec == std::errc())
        clocks.push_back(value);
    }
  if (clocks.empty()) return std::nullopt;
  std::sort(clocks.begin(), clocks.end(), std::greater<>());
  clocks.resize(std::min(clocks.size(), static_cast<size_t>(std::max(cores, 1))));
  return std::accumulate(clocks.begin(), clocks.end(), 0.0) / static_cast<double>(clocks.size());
}

std::optional<double> CpuSensors::power_limit_w() const {
  double limit_w = 0;
  for (const Zone& zone : zones_) {
    if (!zone.package) continue;
    const auto microwatts = number_in(zone.folder / "constraint_0_power_limit_uw");
    if (!microwatts || *microwatts == 0) return std::nullopt;
    limit_w += static_cast<double>(*microwatts) * 1e-6;
  }
  return limit_w > 0 ? std::optional(limit_w) : std::nullopt;
}

CpuSensors::Counters CpuSensors::read() const {
  Counters counters;
  for (const Zone& zone : zones_) {
    const auto energy_uj = number_in(zone.folder / "energy_uj");
    if (!energy_uj) {
      counters.energy_uj.clear();
      break;
    }
    counters.energy_uj.push_back(*energy_uj);
  }
  for (const fs::path& cpu : cpus_)
    for (const char* file : {"core_throttle_count", "package_throttle_count"})
      if (const auto events = number_in(cpu / "thermal_throttle" / file))
        counters.throttle_events = counters.throttle_events.value_or(0) + *events;
  return counters;
}

std::optional<double> CpuSensors::energy_j(const Counters& before, const Counters& after) const {
  if (zones_.empty() || before.energy_uj.size() != zones_.size() ||
      after.energy_uj.size() != zones_.size())
    return std::nullopt;
  double joules = 0;
  for (size_t z = 0; z < zones_.size(); ++z) {
    const uint64_t from = before.energy_uj[z], to = after.energy_uj[z];
    if (to < from && zones_[z].range_uj < from) return std::nullopt;  // wrapped: who knows where
    joules += static_cast<double>(to >= from ? to - from : zones_[z].range_uj - from + to) * 1e-6;
  }
  return joules;
}

}  // namespace thermoe::app
