// Barriers in shared memory, and copies into it that complete on them. From sm_90 on the bulk copy
// engine moves rows; before, the threads of a warp move 16 bytes each.
#pragma once

#include <cstdint>

namespace thermoe::cuda {

#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
#define THERMOE_BULK_COPY 1
#else
#define THERMOE_BULK_COPY 0
#endif

constexpr int kWarp = 32;

__device__ inline uint32_t shared_address(const void* shared) {
  return static_cast<uint32_t>(__cvta_generic_to_shared(shared));
}

// A phase completes once `count` threads arrived and all expected bytes came.
__device__ inline void init_barrier(uint64_t* barrier, uint32_t count) {
  asm volatile("mbarrier.init.shared.b64 [%0], %1;" ::"r"(shared_address(barrier)), "r"(count)
               : "memory");
}

__device__ inline void arrive(uint64_t* barrier) {
  asm volatile("{\n.reg .b64 state;\nmbarrier.arrive.shared.b64 state, [%0];\n}" ::"r"(
                   shared_address(barrier))
               : "memory");
}

// Whether phase `round`, counted from 0, is complete, where it or the one after is the current one.
__device__ inline bool phase_done(uint64_t* barrier, uint32_t round) {
  const uint32_t parity = round & 1;
  uint32_t done = 0;
#if THERMOE_BULK_COPY  // may suspend the thread for a while
  asm volatile(
      "{\n.reg .pred p;\nmbarrier.try_wait.parity.shared.b64 p, [%1], %2;\n"
      "selp.u32 %0, 1, 0, p;\n}"
      : "=r"(done)
      : "r"(shared_address(barrier)), "r"(parity)
      : "memory");
#else
  asm volatile(
      "{\n.reg .pred p;\nmbarrier.test_wait.parity.shared.b64 p, [%1], %2;\n"
      "selp.u32 %0, 1, 0, p;\n}"
      : "=r"(done)
      : "r"(shared_address(barrier)), "r"(parity)
      : "memory");
#endif
  return done != 0;
}

__device__ inline void wait(uint64_t* barrier, uint32_t round) {
  while (!phase_done(barrier, round)) {
  }
}

// Arrivals by which a warp's copies complete a barrier's phase.
constexpr uint32_t kCopyArrivals = THERMOE_BULK_COPY ? 1 : kWarp;

// Barriers just made become visible to the copy engine; a barrier of the block must follow.
__device__ inline void publish_barriers() {
#if THERMOE_BULK_COPY
  asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
#endif
}

// One thread: `bytes` more are expected, and this thread's arrival with them.
__device__ inline void arrive_expecting(uint64_t* barrier, uint32_t bytes) {
#if THERMOE_BULK_COPY
  asm volatile(
      "{\n.reg .b64 state;\nmbarrier.arrive.expect_tx.shared.b64 state, [%0], %1;\n}" ::"r"(
          shared_address(barrier)),
      "r"(bytes)
      : "memory");
#endif
}

// One thread: a run of `bytes`, addresses and size multiples of 16, by the copy engine.
__device__ inline void copy_bulk(void* to, const void* from, uint32_t bytes, uint64_t* barrier) {
#if THERMOE_BULK_COPY
  asm volatile(
      "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::
          "r"(shared_address(to)),
      "l"(from), "r"(bytes), "r"(shared_address(barrier))
      : "memory");
#endif
}

// One thread: 16 bytes, or 4, or 8; until all its copies so far are there; its arrival once they
// are.
__device__ inline void copy_vector(void* to, const void* from) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(shared_address(to)), "l"(from)
               : "memory");
}
__device__ inline void copy_word(void* to, const void* from) {
  asm volatile("cp.async.ca.shared.global [%0], [%1], 4;" ::"r"(shared_address(to)), "l"(from)
               : "memory");
}
__device__ inline void copy_words(void* to, const void* from) {
  asm volatile("cp.async.ca.shared.global [%0], [%1], 8;" ::"r"(shared_address(to)), "l"(from)
               : "memory");
}
__device__ inline void wait_for_copies() { asm volatile("cp.async.wait_all;" ::: "memory"); }
__device__ inline void arrive_after_copies(uint64_t* barrier) {
  asm volatile("cp.async.mbarrier.arrive.noinc.shared.b64 [%0];" ::"r"(shared_address(barrier))
               : "memory");
}

// By a warp.
__device__ inline void copy_vectors(void* to, const void* from, uint32_t bytes, int lane) {
  for (uint32_t at = 16 * static_cast<uint32_t>(lane); at < bytes; at += 16 * kWarp)
    copy_vector(static_cast<unsigned char*>(to) + at, static_cast<const unsigned char*>(from) + at);
}

// Between ordinary writes to global memory and bulk copies of what they wrote: by who tells of the
// writes, before the release, and by who copies, after the acquire.
__device__ inline void order_with_copies() {
#if THERMOE_BULK_COPY
  asm volatile("fence.proxy.async;" ::: "memory");
#endif
}

// Counters in shared memory, for who may lag by more than one phase.
__device__ inline uint32_t load_shared_acquire(const uint32_t* counter) {
  uint32_t value;
  asm volatile("ld.acquire.cta.shared.u32 %0, [%1];"
               : "=r"(value)
               : "r"(shared_address(counter))
               : "memory");
  return value;
}
__device__ inline void add_shared_release(uint32_t* counter) {
  asm volatile("red.release.cta.shared.add.u32 [%0], 1;" ::"r"(shared_address(counter)) : "memory");
}

// Counters in global memory by which blocks tell each other of what they wrote.
__device__ inline int load_acquire(const int* counter) {
  int value;
  asm volatile("ld.acquire.gpu.global.s32 %0, [%1];" : "=r"(value) : "l"(counter) : "memory");
  return value;
}

// Returns once `counter` reached `least`; after a __syncwarp() what was written before it was
// counted is visible to the whole warp.
__device__ inline void wait_for_count(const int* counter, int least) {
  while (load_acquire(counter) < least) {
  }
}

}  // namespace thermoe::cuda
