// What this machine can do at most, for benchmarks to measure beside their own work: short pieces
// of reading memory and of multiplying. They do nothing where there is no AVX2.
#pragma once

#include <cstddef>

namespace thermoe {

bool has_machine_rates();

// Reads memory once, with plain 32-byte loads.
void read_memory(const std::byte* from, size_t bytes);

// kFmaFlops f32 operations: ten independent chains of 8-lane FMAs.
constexpr double kFmaFlops = 20'000 * 10 * 16.0;
void run_fmas();

// kByteMultiplies of vpmaddubsw, 32 bytes each, independent. vpmaddwd runs on the same units.
constexpr double kByteMultiplies = 20'000 * 10.0;
void run_byte_multiplies();

}  // namespace thermoe
