// Hopper's warpgroup products, and what else the prefill kernel needs of a cluster of blocks. Only
// where THERMOE_WGMMA is 1: in code for sm_90a.
#pragma once

#include <cstdint>

#include "kernels/cuda/async_copy.cuh"

#ifdef __CUDA_ARCH_FEAT_SM90_ALL
#define THERMOE_WGMMA 1
#else
#define THERMOE_WGMMA 0
#endif

namespace thermoe::cuda {

constexpr int kWarpgroup = 128;  // threads
constexpr int kPiece = 1024;     // bytes from 8 rows of an operand in shared memory to the next 8

#if THERMOE_WGMMA

// ---- Registers: a warpgroup gives some back, others take them.

template <int Count>
__device__ inline void shrink_registers() {
  asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(Count));
}
template <int Count>
__device__ inline void grow_registers() {
  asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(Count));
}

// ---- Clusters.

__device__ inline uint32_t cluster_rank() {
  uint32_t rank;
  asm("mov.u32 %0, %%cluster_ctarank;" : "=r"(rank));
  return rank;
}

// All threads of all the cluster's blocks.
__device__ inline void cluster_barrier() {
  asm volatile("barrier.cluster.arrive.aligned;\nbarrier.cluster.wait.aligned;" ::: "memory");
}

// At the same barrier of block `rank`. Relaxed: products' reads are over when they are waited for,
// and a release to a cluster takes as long as one to the device.
__device__ inline void arrive_at(uint64_t* barrier, uint32_t rank) {
  asm volatile(
      "{\n.reg .b32 remote;\nmapa.shared::cluster.u32 remote, %0, %1;\n"
      "mbarrier.arrive.relaxed.cluster.shared::cluster.b64 _, [remote];\n}" ::"r"(
          shared_address(barrier)),
      "r"(rank)
      : "memory");
}

// copy_bulk() to the same place, and the same barrier, of every block in `blocks`, a bit each.
__device__ inline void copy_bulk_to(uint16_t blocks, void* to, const void* from, uint32_t bytes,
                                    uint64_t* barrier) {
  asm volatile(
      "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes.multicast::cluster "
      "[%0], [%1], %2, [%3], %4;" ::"r"(shared_address(to)),
      "l"(from), "r"(bytes), "r"(shared_address(barrier)), "h"(blocks)
      : "memory");
}

// What this thread saw arrive in shared memory by cp.async becomes visible to its products.
__device__ inline void order_with_products() {
  asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
}

// ---- Kernels that follow each other: the next one's blocks may start, and then wait until all
// that the one before wrote is visible.

__device__ inline void let_next_kernel_start() {
  asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
}
__device__ inline void wait_for_kernel_before() {
  asm volatile("griddepcontrol.wait;" ::: "memory");
}

// ---- Products. An operand's rows are 128 or 64 bytes, swizzled, 8 of them contiguous, and the
// next 8 kPiece bytes further.

enum class Swizzle : uint64_t { k128Bytes = 1, k64Bytes = 2 };

template <Swizzle S>
__device__ inline uint64_t operand(const void* shared) {
  constexpr uint64_t kUnused = 1;  // the stride that swizzled operands in this order don't have
  return static_cast<uint64_t>(S) << 62 | uint64_t{kPiece >> 4} << 32 | kUnused << 16 |
         (shared_address(shared) & 0x3FFFF) >> 4;
}
// Further by so many bytes.
__device__ inline uint64_t advanced(uint64_t operand, uint32_t bytes) {
  return operand + (bytes >> 4);
}

__device__ inline void begin_products() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }
__device__ inline void commit_products() {
  asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
}
// Returns once at most so many committed groups are under way.
template <int Pending>
__device__ inline void wait_for_products() {
  asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(Pending) : "memory");
}
// The compiler moves no use of the sums across.
template <int N>
__device__ inline void pin(float (&sums)[N]) {
#pragma unroll
  for (int i = 0; i < N; ++i) asm volatile("" : "+f"(sums[i])::"memory");
}

// Thread (g, t) = (lane / 4, lane % 4) of warp w of the warpgroup holds sums[4 j + i]: row 16 w +
// g, and + 8 for i = 2, 3; column 8 j + 2 t, and + 1 for i = 1, 3.
// clang-format off
#define THERMOE_SUMS_4(d, i) "+f"(d[i]), "+f"(d[i + 1]), "+f"(d[i + 2]), "+f"(d[i + 3])
#define THERMOE_SUMS_16(d, i) \
  THERMOE_SUMS_4(d, i), THERMOE_SUMS_4(d, i + 4), THERMOE_SUMS_4(d, i + 8), THERMOE_SUMS_4(d, i + 12)
#define THERMOE_SUMS_64(d, i) \
  THERMOE_SUMS_16(d, i), THERMOE_SUMS_16(d, i + 16), THERMOE_SUMS_16(d, i + 32), THERMOE_SUMS_16(d, i + 48)
#define THERMOE_NAMES_64 \
  "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, " \
  "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, " \
  "%32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, " \
  "%48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63"
#define THERMOE_NAMES_128 \
  "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, " \
  "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, " \
  "%32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, " \
  "%48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63, " \
  "%64, %65, %66, %67, %68, %69, %70, %71, %72, %73, %74, %75, %76, %77, %78, %79, " \
  "%80, %81, %82, %83, %84, %85, %86, %87, %88, %89, %90, %91, %92, %93, %94, %95, " \
  "%96, %97, %98, %99, %100, %101, %102, %103, %104, %105, %106, %107, %108, %109, %110, %111, " \
  "%112, %113, %114, %115, %116, %117, %118, %119, %120, %121, %122, %123, %124, %125, %126, %127"
// clang-format on

// sums [64, 256] (+)= a [64, 16] b [256, 16]^T, bf16.
__device__ inline void multiply_bf16_256(float (&sums)[128], uint64_t a, uint64_t b, bool add) {
  asm volatile(
      "{\n.reg .pred add;\nsetp.ne.b32 add, %130, 0;\n"
      "wgmma.mma_async.sync.aligned.m64n256k16.f32.bf16.bf16 {" THERMOE_NAMES_128
      "}, %128, %129, add, 1, 1, 0, 0;\n}"
      : THERMOE_SUMS_64(sums, 0), THERMOE_SUMS_64(sums, 64)
      : "l"(a), "l"(b), "r"(static_cast<int>(add)));
}

// sums [64, 128] (+)= a [64, 32] b [128, 32]^T, e4m3.
__device__ inline void multiply_fp8_128(float (&sums)[64], uint64_t a, uint64_t b, bool add) {
  asm volatile(
      "{\n.reg .pred add;\nsetp.ne.b32 add, %66, 0;\n"
      "wgmma.mma_async.sync.aligned.m64n128k32.f32.e4m3.e4m3 {" THERMOE_NAMES_64
      "}, %64, %65, add, 1, 1;\n}"
      : THERMOE_SUMS_64(sums, 0)
      : "l"(a), "l"(b), "r"(static_cast<int>(add)));
}

#endif  // THERMOE_WGMMA

}  // namespace thermoe::cuda
