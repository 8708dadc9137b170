// How the work of a launch is cut into jobs, and handed from the warp that fetches weights to those
// that multiply.
#pragma once

#include <cstdint>

#include "kernels/cuda/decode_tile.cuh"

namespace thermoe::cuda {

constexpr int kChunkTokens = 16;  // of one expert in one job
constexpr int kCombineColumns = 1024;

enum class JobKind : int32_t { kUp, kDown, kCombine, kEnd };

// kUp, kDown: a tile of rows of an instance's gate and up, or down, times `count` pairs.
// kCombine: `instance` is the token, `tile` the run of kCombineColumns.
struct Job {
  JobKind kind;
  ExpertForm form;
  int32_t instance, tile, count;
  float ratio;  // nested: plane_ratio, and what the sums of products are multiplied by
  float factor;
  int32_t pairs[kChunkTokens];  // past the end the last one, whose results are dropped
};

// Units of the intermediate layer, and rows of the output, that a tile holds.
__device__ inline int up_units(ExpertForm form) { return form == ExpertForm::kBf16 ? 8 : 16; }
__device__ inline int down_rows(ExpertForm form) { return form == ExpertForm::kBf16 ? 16 : 32; }
__device__ inline int up_tiles(ExpertForm form, int inter) { return inter / up_units(form); }
__device__ inline int down_tiles(ExpertForm form, int hidden) { return hidden / down_rows(form); }
__device__ inline int chunks_of(int load) { return ceil_div(load, kChunkTokens); }

// The instances that tokens use, and up to which ticket each one's jobs go.
struct JobTable {
  int count;              // instances
  int up_jobs, all_jobs;  // tickets below up_jobs are kUp, those from all_jobs on kCombine
  int16_t instance[kMostInstances];
  int8_t form[kMostInstances];
  int32_t begin[kMostInstances + 1];  // of their pairs in `packed`
  int32_t up_end[kMostInstances], down_end[kMostInstances];
};

// By one warp. An expert's jobs follow each other, so that a later pass over its tokens finds the
// weights in the L2 cache, and all kUp jobs come before kDown: whoever waits for one waits for a
// job that already runs.
__device__ inline void fill_job_table(const DecodeExpertsArguments& arguments, int lane,
                                      JobTable& table) {
  int used = 0, up = 0, down = 0;
  for (int base = 0; base < arguments.instances; base += kWarp) {
    const int i = base + lane;
    const bool exists = i < arguments.instances;
    const int begin = exists ? arguments.offsets[i] : 0;
    const int load = exists ? arguments.offsets[i + 1] - begin : 0;
    const ExpertForm form = exists ? arguments.experts[i].form : ExpertForm::kBf16;
    int up_sum = load > 0 ? up_tiles(form, arguments.inter) * chunks_of(load) : 0;
    int down_sum = load > 0 ? down_tiles(form, arguments.hidden) * chunks_of(load) : 0;
#pragma unroll
    for (int step = 1; step < kWarp; step *= 2) {
      const int u = __shfl_up_sync(0xFFFFFFFFu, up_sum, step);
      const int d = __shfl_up_sync(0xFFFFFFFFu, down_sum, step);
      if (lane >= step) up_sum += u, down_sum += d;
    }
    const unsigned loaded = __ballot_sync(0xFFFFFFFFu, load > 0);
    if (load > 0) {
      const int at = used + __popc(loaded & ((1u << lane) - 1));
      table.instance[at] = static_cast<int16_t>(i);
      table.form[at] = static_cast<int8_t>(form);
      table.begin[at] = begin;
      table.begin[at + 1] = begin + load;  // the next one's, who writes the same
      table.up_end[at] = up + up_sum;
      table.down_end[at] = down + down_sum;
    }
    used += __popc(loaded);
    up += __shfl_sync(0xFFFFFFFFu, up_sum, kWarp - 1);
    down += __shfl_sync(0xFFFFFFFFu, down_sum, kWarp - 1);
  }
  if (lane == 0) {
    table.count = used;
    table.up_jobs = up;
    table.all_jobs = up + down;
  }
}

// What a ticket stands for.
struct Ticket {
  JobKind kind;
  int entry;  // of the table; of a kCombine the token
  int tile;
  int first, count;  // of `packed`
  __device__ bool tiled() const { return kind == JobKind::kUp || kind == JobKind::kDown; }
};

// `entry` is where the ticket's expert is sought from. Reads shared memory only.
__device__ inline Ticket read_ticket(const DecodeExpertsArguments& arguments, const JobTable& table,
                                     int ticket, int entry) {
  if (ticket >= table.all_jobs) {
    const int runs = ceil_div(arguments.hidden, kCombineColumns);
    const int rest = ticket - table.all_jobs;
    const bool more = rest < arguments.tokens * runs;
    return {more ? JobKind::kCombine : JobKind::kEnd, rest / runs, rest % runs, 0, 0};
  }
  const bool up = ticket < table.up_jobs;
  const int32_t* ends = up ? table.up_end : table.down_end;
  if (!up) ticket -= table.up_jobs;
  while (ends[entry] <= ticket) ++entry;
  if (entry > 0) ticket -= ends[entry - 1];
  const int begin = table.begin[entry], load = table.begin[entry + 1] - begin;
  const JobKind kind = up ? JobKind::kUp : JobKind::kDown;
  if (load <= kChunkTokens) return {kind, entry, ticket, begin, load};
  const int chunks = chunks_of(load), done = ticket % chunks * kChunkTokens;
  return {kind, entry, ticket / chunks, begin + done, min(kChunkTokens, load - done)};
}

// A block's tickets one after the other.
struct TicketReader {
  int ticket, entry = 0;

  __device__ Ticket next(const DecodeExpertsArguments& arguments, const JobTable& table) {
    const Ticket read = read_ticket(arguments, table, ticket, entry);
    const int before = ticket;
    ticket += static_cast<int>(gridDim.x);
    const bool turns = before < table.up_jobs && ticket >= table.up_jobs;
    entry = turns || !read.tiled() ? 0 : read.entry;
    return read;
  }
};

// How many kUp jobs an expert has.
__device__ inline int up_jobs_of(const JobTable& table, int entry) {
  return table.up_end[entry] - (entry > 0 ? table.up_end[entry - 1] : 0);
}

}  // namespace thermoe::cuda
