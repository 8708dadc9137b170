#include "kernels/triton/compiled_kernels.h"

#include <fmt/format.h>
#include <zlib.h>

#include <cstdlib>
#include <fstream>
#include <iterator>
#include <nlohmann/json.hpp>

#include "thermoe/error.h"

namespace thermoe::triton {
namespace {

constexpr const char* kSchema = "thermoe-triton-kernels";
constexpr const char* kRemedy = "run src/kernels/triton/compile.py again";

std::string content_of(const std::filesystem::path& path) {
  std::ifstream file(path, std::ios::binary);
  if (!file) throw IoError(path.string(), fmt::format("can't be read; {}", kRemedy));
  return {std::istreambuf_iterator<char>(file), {}};
}

std::string crc32_of(const std::string& bytes) {
  return fmt::format("{:08x}",
                     crc32_z(0, reinterpret_cast<const Bytef*>(bytes.data()), bytes.size()));
}

CompiledKernel kernel_of(const nlohmann::json& json) {
  CompiledKernel kernel;
  json.at("name").get_to(kernel.name);
  json.at("entry").get_to(kernel.entry);
  json.at("parameters").get_to(kernel.parameters);
  json.at("hidden_pointers").get_to(kernel.hidden_pointers);
  json.at("arch").get_to(kernel.arch);
  json.at("warps").get_to(kernel.warps);
  json.at("shared_bytes").get_to(kernel.shared_bytes);
  for (const auto& [name, value] : json.at("constants").items())
    kernel.constants.emplace_back(name, value.get<int>());
  return kernel;
}

std::string cubin_of(const std::filesystem::path& folder, const nlohmann::json& json) {
  const std::filesystem::path path = folder / json.at("file").get<std::string>();
  std::string cubin = content_of(path);
  if (crc32_of(cubin) != json.at("crc32").get<std::string>())
    throw IoError(path.string(), fmt::format("is not the cubin that the manifest names (truncated, "
                                             "or compiled at another time); {}",
                                             kRemedy));
  return cubin;
}

bool runs_on(const CompiledKernel& kernel, int device_arch) {
  return kernel.arch / 10 == device_arch / 10 && kernel.arch <= device_arch;
}

}  // namespace

int CompiledKernel::constant(std::string_view constant_name) const {
  for (const auto& [known, value] : constants)
    if (known == constant_name) return value;
  throw InvalidArgument(fmt::format("the Triton kernel {} was compiled without {}: {}", name,
                                    constant_name, kRemedy));
}

KernelSet read_kernels(const std::filesystem::path& folder) {
  const std::filesystem::path manifest = folder / "manifest.json";
  KernelSet set;
  try {
    const nlohmann::json json = nlohmann::json::parse(content_of(manifest));
    if (json.at("schema") != kSchema || json.at("version") != 1)
      throw IoError(manifest.string(),
                    "is no manifest of compiled kernels that this version reads");
    json.at("triton_version").get_to(set.triton_version);
    json.at("sources_crc32").get_to(set.sources_crc32);
    if (set.triton_version != kTritonVersion)
      throw IoError(manifest.string(),
                    fmt::format("the kernels were compiled by Triton {}, and this program launches "
                                "those of {}; install triton=={} and {}",
                                set.triton_version, kTritonVersion, kTritonVersion, kRemedy));
    for (const nlohmann::json& kernel : json.at("kernels")) {
      set.kernels.push_back(kernel_of(kernel));
      set.kernels.back().cubin = cubin_of(folder, kernel);
    }
  } catch (const nlohmann::json::exception& error) {
    throw IoError(manifest.string(), fmt::format("{}; {}", error.what(), kRemedy));
  }
  return set;
}

const KernelSet& kernels_in_use() {
  static const KernelSet set = [] {
    const char* folder = std::getenv("THERMOE_TRITON_DIR");
    return folder != nullptr && *folder != '\0' ? read_kernels(folder) : built_in_kernels();
  }();
  return set;
}

const CompiledKernel& find_kernel(const KernelSet& set, std::string_view name, int device_arch,
                                  std::string_view parameters) {
  if (set.kernels.empty()) throw InvalidArgument("no Triton kernels: " + set.problem);
  const CompiledKernel* best = nullptr;
  bool named = false;
  for (const CompiledKernel& kernel : set.kernels) {
    if (kernel.name != name) continue;
    named = true;
    if (runs_on(kernel, device_arch) && (best == nullptr || kernel.arch > best->arch))
      best = &kernel;
  }
  if (!named)
    throw InvalidArgument(
        fmt::format("there is no Triton kernel {}: compile those of this version "
                    "(src/kernels/triton/compile.py)",
                    name));
  if (best == nullptr)
    throw InvalidArgument(
        fmt::format("the Triton kernel {} was not compiled for compute capability {}.{}: add it to "
                    "compile.py's "
                    "--archs and build again, or use --kernels cuda",
                    name, device_arch / 10, device_arch % 10));
  if (best->parameters != parameters || best->hidden_pointers != kHiddenPointers)
    throw InvalidArgument(
        fmt::format("the Triton kernel {} takes {} and {} hidden pointers, and this program gives "
                    "{} and {}: it "
                    "was compiled from other sources; build again, or compile them again",
                    name, best->parameters, best->hidden_pointers, parameters, kHiddenPointers));
  return *best;
}

}  // namespace thermoe::triton
