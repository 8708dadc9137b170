// A GPU as a sweep measures it.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "gpu_work.h"
#include "sweep.h"
#include "thermoe/gpu_system_monitor.h"

namespace thermoe::app {

class GpuSweep : public SweepBackend {
 public:
  // telemetry: of the same board; where there is none, samples have neither power nor clock.
  GpuSweep(std::unique_ptr<GpuWork> work, std::unique_ptr<TelemetrySource> telemetry);

  std::string name() const override { return "cuda"; }
  std::string device() const override { return device_; }
  std::string driver() const override { return driver_; }  // and CUDA, with their versions
  int threads() const override { return 1; }               // that launches
  MeasuredPeaks peaks() const { return work_->facts().peaks; }
  std::vector<std::string> kernels(const std::string& dtype) const { return work_->kernels(dtype); }
  // Throws InvalidArgument for the first point that the device can't measure.
  void check(const std::vector<SweepPoint>& points) const;
  // Points that ask for a time get the board's mean power, once it has settled, over the rest of
  // that time, in which launches follow each other without a pause.
  SweepSample run(const SweepPoint& point, double seconds) override;

 private:
  std::unique_ptr<GpuWork> work_;
  std::optional<GpuSystemMonitor> monitor_;
  std::string device_, driver_;
};

// NVML's source of the board that CUDA names so; none where NVML doesn't know it.
std::unique_ptr<TelemetrySource> open_telemetry_of(const std::string& uuid);

// The sweep of the first device that CUDA lists. Throws as make_gpu_work().
std::unique_ptr<GpuSweep> make_gpu_sweep();

}  // namespace thermoe::app
