#include "telemetry/nvml_library.h"

#include <dlfcn.h>
#include <fmt/format.h>

#include <cstdlib>
#include <initializer_list>

#include "thermoe/error.h"

namespace thermoe::nvml {
namespace {

constexpr const char* kLibraryVariable = "THERMOE_NVML_LIBRARY";
constexpr const char* kDefaultLibrary = "libnvidia-ml.so.1";

// The first of `names` that the library has: newer drivers first.
template <typename Function>
void find(void* handle, std::initializer_list<const char*> names, Function*& function) {
  for (const char* name : names) {
    function = reinterpret_cast<Function*>(dlsym(handle, name));
    if (function != nullptr) return;
  }
}

std::string remedy(Return result) {
  switch (result) {
    case kErrorDriverNotLoaded:
      return "load the NVIDIA kernel driver (modprobe nvidia), or start the container with GPU "
             "access";
    case kErrorLibRmVersionMismatch:
      return "the driver was updated underneath: reboot, or reload its kernel modules";
    case kErrorNoPermission:
    case kErrorOperatingSystem:
      return "give this user access to the device files /dev/nvidia*";
    case kErrorGpuIsLost:
    case kErrorResetRequired:
      return "reset the GPU (nvidia-smi --gpu-reset) or reboot";
    default:
      return "check that nvidia-smi works";
  }
}

}  // namespace

std::string library_name() {
  const char* chosen = std::getenv(kLibraryVariable);
  return chosen != nullptr && *chosen != '\0' ? chosen : kDefaultLibrary;
}

Library::Library() {
  const std::string name = library_name();
  handle_.reset(dlopen(name.c_str(), RTLD_NOW | RTLD_LOCAL));
  if (handle_ == nullptr) {
    const char* why = dlerror();
    throw NvmlError(
        fmt::format("NVML can't be loaded from '{}' ({}); install the NVIDIA driver, or set {} to "
                    "the library's "
                    "path, or use a replayed trace or the digital twin",
                    name, why != nullptr ? why : "no reason given", kLibraryVariable));
  }
  resolve();
  Dl_info where{};
  path_ = dladdr(reinterpret_cast<void*>(api_.init), &where) != 0 && where.dli_fname != nullptr
              ? where.dli_fname
              : name;
}

void Library::resolve() {
  void* library = handle_.get();
  find(library, {"nvmlInit_v2", "nvmlInit"}, api_.init);
  find(library, {"nvmlShutdown"}, api_.shutdown);
  find(library, {"nvmlDeviceGetCount_v2", "nvmlDeviceGetCount"}, api_.device_count);
  find(library, {"nvmlDeviceGetHandleByIndex_v2", "nvmlDeviceGetHandleByIndex"},
       api_.device_by_index);
  find(library, {"nvmlDeviceGetTemperature"}, api_.device_temperature);
  find(library, {"nvmlErrorString"}, api_.error_string);
  find(library, {"nvmlSystemGetDriverVersion"}, api_.driver_version);
  find(library, {"nvmlDeviceGetName"}, api_.device_name);
  find(library, {"nvmlDeviceGetUUID"}, api_.device_uuid);
  find(library, {"nvmlDeviceGetFieldValues"}, api_.field_values);
  find(library, {"nvmlDeviceGetPowerUsage"}, api_.power_usage);
  find(library, {"nvmlDeviceGetTotalEnergyConsumption"}, api_.total_energy);
  find(library, {"nvmlDeviceGetEnforcedPowerLimit"}, api_.enforced_power_limit);
  find(library, {"nvmlDeviceGetClockInfo"}, api_.clock_info);
  find(library, {"nvmlDeviceGetMaxClockInfo"}, api_.max_clock_info);
  find(library, {"nvmlDeviceGetTemperatureThreshold"}, api_.temperature_threshold);
  find(library, {"nvmlDeviceGetMarginTemperature"}, api_.margin_temperature);
  // Renamed with driver 535.
  find(library,
       {"nvmlDeviceGetCurrentClocksEventReasons", "nvmlDeviceGetCurrentClocksThrottleReasons"},
       api_.clocks_event_reasons);
  find(library, {"nvmlGpmQueryDeviceSupport"}, api_.gpm_support);
  find(library, {"nvmlGpmSampleAlloc"}, api_.gpm_sample_alloc);
  find(library, {"nvmlGpmSampleFree"}, api_.gpm_sample_free);
  find(library, {"nvmlGpmSampleGet"}, api_.gpm_sample_get);
  find(library, {"nvmlGpmMetricsGet"}, api_.gpm_metrics_get);

  const char* missing = api_.init == nullptr                 ? "nvmlInit"
                        : api_.shutdown == nullptr           ? "nvmlShutdown"
                        : api_.device_count == nullptr       ? "nvmlDeviceGetCount"
                        : api_.device_by_index == nullptr    ? "nvmlDeviceGetHandleByIndex"
                        : api_.device_temperature == nullptr ? "nvmlDeviceGetTemperature"
                                                             : nullptr;
  if (missing != nullptr) {
    throw NvmlError(fmt::format(
        "'{}' has no function {}; install a newer NVIDIA driver, or unset {} where it names some "
        "other library",
        library_name(), missing, kLibraryVariable));
  }
}

Library::~Library() { shutdown(); }

void Library::Close::operator()(void* handle) const { dlclose(handle); }

Return Library::init() {
  if (initialized_) return kSuccess;
  const Return result = api_.init();
  initialized_ = result == kSuccess;
  return result;
}

void Library::shutdown() {
  // Whatever it answers, there is nothing more to let go of.
  if (initialized_) api_.shutdown();
  initialized_ = false;
}

void Library::require_init() {
  const Return result = init();
  if (result != kSuccess) throw NvmlError("NVML can't be initialised: " + explain(result));
}

unsigned Library::require_device_count() const {
  unsigned count = 0;
  const Return result = api_.device_count(&count);
  if (result != kSuccess) throw NvmlError("NVML can't count the GPUs: " + explain(result));
  return count;
}

std::string Library::driver_version() const {
  char text[kDriverVersionBytes] = {};
  const bool known =
      api_.driver_version != nullptr && api_.driver_version(text, sizeof text) == kSuccess;
  return known ? text : "";
}

std::string Library::device_name(Device device) const {
  char text[kNameBytes] = {};
  const bool known =
      api_.device_name != nullptr && api_.device_name(device, text, sizeof text) == kSuccess;
  return known ? text : "";
}

std::string Library::device_uuid(Device device) const {
  char text[kUuidBytes] = {};
  const bool known =
      api_.device_uuid != nullptr && api_.device_uuid(device, text, sizeof text) == kSuccess;
  return known ? text : "";
}

std::string Library::explain(Return result) const {
  const char* words = api_.error_string != nullptr ? api_.error_string(result) : nullptr;
  return fmt::format("{} (NVML error {}); {}", words != nullptr ? words : "no description", result,
                     remedy(result));
}

}  // namespace thermoe::nvml
