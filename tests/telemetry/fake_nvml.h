// The knobs of the fake NVIDIA management library (fake_nvml.cpp), reached through its one exported
// control function.
#pragma once

#include <cstdint>

struct FakeNvml {
  // What the library answers.
  unsigned devices = 1;
  int init_result = 0;           // what nvmlInit_v2 returns (nvmlReturn_t)
  int device_result = 0;         // what every call on a device returns, where not 0
  int energy_result = 0;         // what the energy counter alone returns
  int memory_temp_result = 0;    // the result inside that one field value
  int power_fields_result = 0;   // the result inside both power fields
  int threshold_result = 0;      // what the thresholds return: some boards know only margins
  int power_value_type = 1;      // nvmlValueType_t of the power fields
  unsigned first_uuid = 0;       // the UUID of index 0 ends in it; the others count on
  unsigned field_call_us = 0;    // how long nvmlDeviceGetFieldValues takes
  unsigned slow_fields_us = 0;   // and each of 75, 270 and 271 in it
  unsigned energy_call_us = 0;   // how long reading the energy counter takes
  unsigned refused_field = ~0u;  // this id and those above make it refuse the whole batch
  uint64_t throttled_ns = 5'000'000'000;  // each counter: this much and its field id
  int counters_result = 0;                // the result inside every throttle counter
  int new_counters_result = 0;            // inside those of 2025 (269 to 271), where not 0
  int new_counters_type = 3;              // nvmlValueType_t of them
  long long stamp_us = 0;         // every field's time stamp, where not 0; else the time of day
  long long stamp_offset_us = 0;  // by which the driver's time of day is ahead
  int gpm_supported = 1;
  int gpm_result = 0;          // what taking a sample returns
  int gpm_metrics_result = 0;  // what comparing two returns
  int gpm_dram_result = 0;     // the result inside that one metric
  double sm_percent = 90.0, tensor_percent = 62.5, dram_percent = 25.0;
  unsigned temperature_c = 41;
  uint64_t energy_mj = 123456789;
  // What was asked of it.
  int inits = 0;
  int shutdowns = 0;
  int energy_calls = 0;
  int field_calls = 0;
  int slow_fields = 0;  // of 75, 270 and 271
  int last_field_count = 0;
  int gpm_samples = 0;    // taken
  int gpm_allocated = 0;  // and not freed yet
};

extern "C" using FakeNvmlControl = FakeNvml * ();  // "fake_nvml"
