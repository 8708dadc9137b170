#include "machine_rates.h"

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace thermoe {

#if defined(__x86_64__)
bool has_machine_rates() { return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"); }

__attribute__((target("avx2"))) void read_memory(const std::byte* from, size_t bytes) {
  __m256i sums[4] = {};
  for (size_t at = 0; at + 128 <= bytes; at += 128)
    for (size_t i = 0; i < 4; ++i)
      sums[i] = _mm256_xor_si256(
          sums[i], _mm256_loadu_si256(reinterpret_cast<const __m256i*>(from + at + 32 * i)));
  asm volatile("" : : "x"(sums[0]), "x"(sums[1]), "x"(sums[2]), "x"(sums[3]));
}

constexpr int kSteps = 20'000, kChains = 10;  // as the header says

__attribute__((target("avx2,fma"))) void run_fmas() {
  __m256 chains[kChains];
#pragma GCC unroll 10
  for (int i = 0; i < kChains; ++i) chains[i] = _mm256_set1_ps(static_cast<float>(i));
  const __m256 factor = _mm256_set1_ps(0.5f);
  for (int step = 0; step < kSteps; ++step) {
#pragma GCC unroll 10
    for (int i = 0; i < kChains; ++i) {
      chains[i] = _mm256_fmadd_ps(chains[i], factor, factor);
      asm volatile("" : "+x"(chains[i]));
    }
  }
}

__attribute__((target("avx2"))) void run_byte_multiplies() {
  __m256i results[kChains];
#pragma GCC unroll 10
  for (int i = 0; i < kChains; ++i) results[i] = _mm256_set1_epi8(1);
  const __m256i factor = _mm256_set1_epi8(3);
  for (int step = 0; step < kSteps; ++step) {
#pragma GCC unroll 10
    for (int i = 0; i < kChains; ++i) {
      results[i] = _mm256_maddubs_epi16(results[i], factor);
      asm volatile("" : "+x"(results[i]));
    }
  }
}
#else
bool has_machine_rates() { return false; }
void read_memory(const std::byte*, size_t) {}
void run_fmas() {}
void run_byte_multiplies() {}
#endif

}  // namespace thermoe
