// thermoe fit: a cost profile from a table of measured kernels.
#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <memory>
#include <nlohmann/json.hpp>

#include "commands.h"
#include "cost/profile_fit.h"
#include "device_peaks.h"
#include "paths.h"
#include "profile_report.h"
#include "progress.h"
#include "table.h"
#include "thermoe/error.h"

namespace thermoe::app {
namespace {

struct FitOptions {
  std::vector<std::string> csv;
  std::string out, power_profile, linear_profile, json;
  std::vector<std::string> provenance;
};

std::vector<cost::MeasuredRow> read_tables(const FitOptions& options) {
  std::vector<cost::MeasuredRow> rows;
  for (const std::string& file : options.csv) {
    const auto more = cost::read_measured_table(file);
    rows.insert(rows.end(), more.begin(), more.end());
  }
  return rows;
}

std::map<std::string, std::string> provenance_of(const FitOptions& options) {
  std::map<std::string, std::string> provenance;
  for (const std::string& entry : options.provenance) {
    const size_t equal = entry.find('=');
    if (equal == std::string::npos || equal == 0)
      throw InvalidArgument(fmt::format("--provenance {}: give KEY=TEXT", entry));
    provenance[entry.substr(0, equal)] = entry.substr(equal + 1);
  }
  return provenance;
}

std::string to_table(const cost::KernelProfile& profile) {
  Table table;
  table.header = {"kernel", "type", "curves"};
  for (const std::string& column : held_out_header()) table.header.push_back(column);
  for (const cost::MeasuredKernel& k : profile.kernels) {
    table.rows.push_back({k.kernel, k.dtype, fmt::format("{}", k.curves.size())});
    for (const std::string& cell : held_out_cells(k)) table.rows.back().push_back(cell);
  }
  return table.text();
}

nlohmann::ordered_json to_json(const cost::KernelProfile& profile, const FitOptions& options) {
  nlohmann::ordered_json kernels = nlohmann::ordered_json::array();
  for (const cost::MeasuredKernel& k : profile.kernels) kernels.push_back(kernel_json(k));
  return {{"device", profile.device}, {"out", options.out}, {"kernels", kernels}};
}

void run_fit(const FitOptions& options) {
  const std::vector<cost::MeasuredRow> rows = read_tables(options);
  const DevicePeaks peaks = device_peaks(rows.front().device, options.power_profile);
  cost::ProfileFitSettings settings;
  settings.memory_bytes_per_s = peaks.memory_bytes_per_s;
  settings.bf16_flops_per_s = peaks.bf16_flops_per_s;
  auto progress = std::make_unique<Progress>("fit", static_cast<double>(rows.size()), "rows");
  settings.progress = [&](double done_frac) {
    progress->update(done_frac * static_cast<double>(rows.size()));
  };
  cost::KernelProfile profile = cost::fit_profile(rows, settings);
  progress.reset();
  profile.power_profile = peaks.file_name;
  profile.linear_profile = options.linear_profile;
  profile.provenance = provenance_of(options);
  cost::write_kernel_profile(profile, options.out);
  if (!options.json.empty()) write_file(options.json, to_json(profile, options).dump(2) + "\n");
  if (options.json == "-") return;
  fmt::print("{}\n{} rows of {}. Wrote {}.\n", to_table(profile), rows.size(), profile.device,
             options.out);
}

}  // namespace

void add_fit_command(CLI::App& program) {
  const auto options = std::make_shared<FitOptions>();
  CLI::App* command = program.add_subcommand(
      "fit",
      "Make a cost profile of a device from tables of measured kernels, and tell how well it "
      "predicts what was held out");
  command->add_option("--csv", options->csv, "tables (CSV, may be gzip-compressed), one device")
      ->required();
  command->add_option("--out", options->out, "write the profile to this file")->required();
  command->add_option("--power-profile", options->power_profile,
                      "the device's power profile, for its peaks; default: the shipped one of that "
                      "device's name");
  command->add_option("--linear-profile", options->linear_profile,
                      "the profile beside this one that holds dense products (gemm); default: "
                      "those of the tables themselves");
  command->add_option("--provenance", options->provenance,
                      "KEY=TEXT to keep in the profile: origin, commit, licence, copyright");
  command->add_option("--json", options->json,
                      "write the result as JSON to this file; - for stdout");
  command->callback([options] { run_fit(*options); });
}

}  // namespace thermoe::app
