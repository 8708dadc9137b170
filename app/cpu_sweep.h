// The CPU as a sweep measures it.
#pragma once

#include <memory>
#include <optional>
#include <vector>

#include "cpu_sensors.h"
#include "cpu_work.h"
#include "sweep.h"

namespace thermoe::app {

class CpuSweep : public SweepBackend {
 public:
  // threads: 0 means one per hardware thread.
  explicit CpuSweep(int threads, const CpuSensors& sensors = CpuSensors());

  std::string name() const override { return "cpu"; }
  std::string device() const override { return device_; }
  std::string driver() const override { return driver_; }  // the kernel's name and release
  int threads() const override { return pool_.size(); }
  // Takes a second or less.
  MeasuredPeaks peaks();
  // Warm: repetitions on the same inputs, the first few not counted. Cold: all caches are filled
  // with other memory before each. Power is the packages' and their memory's over all repetitions,
  // of warm samples that are long enough for their counters.
  SweepSample run(const SweepPoint& point, double seconds) override;

 private:
  CpuWork& work_for(const cost::KernelShape& shape);
  void fill_caches();
  std::vector<double> repeat(CpuWork& work, bool cold, double seconds);

  CpuSensors sensors_;
  std::string device_, driver_;
  ThreadPool pool_;
  std::vector<uint64_t> other_memory_;  // twice the last-level caches
  cost::KernelShape shape_;             // work_'s, without a load
  std::unique_ptr<CpuWork> work_;
};

}  // namespace thermoe::app
