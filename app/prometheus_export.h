// The monitored devices for Prometheus to scrape, at /metrics.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "thermoe/gpu_system_monitor.h"

namespace thermoe::app {

struct ExportedDevice {
  int gpu = 0;
  const GpuSystemMonitor* monitor = nullptr;  // outlives the export
};

// Serves on threads of its own from construction on. Names are dcgm-exporter's where it has the
// reading (DCGM_FI_DEV_POWER_USAGE, ...), else Prometheus's conventions (thermoe_..., base units).
// A reading that is absent has no line.
class PrometheusExport {
 public:
  // `address` is [HOST]:PORT; without a host every interface, port 0 a free one. Throws
  // InvalidArgument where it can't listen there, or where this build can't serve.
  PrometheusExport(const std::string& address, std::vector<ExportedDevice> devices);
  ~PrometheusExport();
  PrometheusExport(const PrometheusExport&) = delete;
  PrometheusExport& operator=(const PrometheusExport&) = delete;
  int port() const;
  // False where this build can't serve.
  static bool available();

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace thermoe::app
