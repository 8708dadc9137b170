// The knobs of the fake NVIDIA management library (fake_nvml.cpp), reached through its one exported
// control function.
#pragma once

#include <cstdint>

struct FakeNvml {
  // What the library answers.
  unsigned devices = 1;
  int init_result = 0;          // what nvmlInit_v2 returns (nvmlReturn_t)
  int device_result = 0;        // what every call on a device returns, where not 0
  int energy_result = 0;        // what the energy counter alone returns
  int memory_temp_result = 0;   // the result inside that one field value
  int power_fields_result = 0;  // the result inside both power fields
  int threshold_result = 0;     // what the thresholds return: some boards know only margins
  int power_value_type = 1;     // nvmlValueType_t of the power fields
  unsigned first_uuid = 0;      // the UUID of index 0 ends in it; the others count on
  unsigned field_call_us = 0;   // how long nvmlDeviceGetFieldValues takes
  unsigned temperature_c = 41;
  uint64_t energy_mj = 123456789;
  // What was asked of it.
  int inits = 0;
  int shutdowns = 0;
  int energy_calls = 0;
  int field_calls = 0;
  int last_field_count = 0;
};

extern "C" using FakeNvmlControl = FakeNvml * ();  // "fake_nvml"
