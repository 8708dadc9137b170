// The loaded NVIDIA management library: found, resolved, initialised and let go.
#pragma once

#include <memory>
#include <string>

#include "telemetry/nvml_api.h"

namespace thermoe::nvml {

// The file to load: the environment variable THERMOE_NVML_LIBRARY, or libnvidia-ml.so.1.
std::string library_name();

// Owns one dlopen handle and at most one initialisation. NVML counts initialisations, so several
// Libraries live side by side. Not thread-safe; NVML itself is.
class Library {
 public:
  // Loads library_name() and resolves the functions. Throws NvmlError where it can't be loaded or
  // lacks a function that is needed.
  Library();
  // Shuts NVML down where it is initialised.
  ~Library();
  Library(const Library&) = delete;
  Library& operator=(const Library&) = delete;

  const Api& api() const { return api_; }
  // The file that was loaded, as the dynamic linker names it.
  const std::string& path() const { return path_; }

  // Initialises NVML; does nothing where it is already.
  Return init();
  void shutdown();
  // init() and device count, for callers that can't go on without. Throws NvmlError with the
  // remedy.
  void require_init();
  unsigned require_device_count() const;

  std::string driver_version() const;
  std::string device_name(Device device) const;
  std::string device_uuid(Device device) const;
  // What a return code means, in NVML's words, and what to do about it where we know.
  std::string explain(Return result) const;

 private:
  void resolve();

  struct Close {
    void operator()(void* handle) const;
  };
  std::unique_ptr<void, Close> handle_;
  bool initialized_ = false;
  Api api_;
  std::string path_;
};

}  // namespace thermoe::nvml
