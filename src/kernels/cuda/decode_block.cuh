// What the warps of a block of the decode kernel share.
#pragma once

#include "kernels/cuda/decode_jobs.cuh"

namespace thermoe::cuda {

// Two teams of warps multiply, each a job of its own, so that one's waits are the other's work.
constexpr int kTeams = 2, kTeamWarps = 8, kTeamThreads = kTeamWarps * kWarp;
constexpr int kMultiplyWarps = kTeams * kTeamWarps;
constexpr int kFetchWarp = kMultiplyWarps, kFetchWarps = 2, kFeedWarp = kFetchWarp + kFetchWarps,
              kTellWarp = kFeedWarp + 1;
constexpr int kThreads = (kTellWarp + 1) * kWarp;
constexpr int kMostUnits = 12;
constexpr int kJobRing = 8, kSignalRing = 8;
constexpr int kSums = 256;  // f32 that a warp's 32 rows by 8 tokens take

struct Workspace {
  int* exits;    // [1]
  int* up_done;  // [kMostInstances] jobs
  int* down_done;
  __nv_bfloat16* inner;  // [T k, inter], in fragment order
  float* part;           // [T k, hidden]
};

__host__ __device__ inline size_t aligned(size_t bytes) { return (bytes + 255) / 256 * 256; }

__device__ inline Workspace workspace_of(const DecodeExpertsArguments& a) {
  int* counters = reinterpret_cast<int*>(a.workspace);
  constexpr size_t counter_bytes = (64 + 2 * kMostInstances) * sizeof(int);
  std::byte* inner = a.workspace + counter_bytes;
  const size_t pairs = static_cast<size_t>(a.tokens) * a.k;
  return {counters, counters + 64, counters + 64 + kMostInstances,
          reinterpret_cast<__nv_bfloat16*>(inner),
          reinterpret_cast<float*>(inner + aligned(pairs * a.inter * 2))};
}

struct Shared {
  float sums[kTeams][2][kTeamWarps][kSums];
  uint64_t full[kMostUnits];
  uint32_t emptied[kMostUnits];  // by a warp of the team that used the unit, all rounds together
  uint64_t job_full[kJobRing], job_empty[kJobRing];
  uint64_t written[kTeams][kSignalRing], signalled[kTeams][kSignalRing];
  Job jobs[kJobRing];
  int* counters[kTeams][kSignalRing];
  JobTable table;
};
constexpr size_t kSharedBytes = (sizeof(Shared) + 127) / 128 * 128;

// A position in a ring, and how often the ring was gone round before.
struct Cursor {
  int at = 0;
  uint32_t round = 0;
  __device__ void advance(int size) {
    if (++at == size) at = 0, ++round;
  }
  __device__ Cursor after(int steps, int size) const {
    const bool wraps = at + steps >= size;
    return {at + steps - (wraps ? size : 0), wraps ? round + 1 : round};
  }
};

struct Block {
  const DecodeExpertsArguments& arguments;
  Shared& shared;
  unsigned char* units;
  int unit_count;
  Workspace workspace;
  int lane;

  __device__ TicketReader tickets() const { return {static_cast<int>(blockIdx.x)}; }
  // Until the unit's contents of the round before were used. Teams empty units out of order, and
  // whoever waits may be two rounds ahead: a barrier's parity would not do.
  __device__ void wait_until_empty(const Cursor& at) const {
    while (load_shared_acquire(&shared.emptied[at.at]) < at.round * kTeamWarps) {
    }
  }
  __device__ unsigned char* unit(const Cursor& at) const { return units + at.at * kUnitBytes; }
};

}  // namespace thermoe::cuda
