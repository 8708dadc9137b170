// The warps of the decode kernel that bring weights and activations into shared memory.
#pragma once

#include "kernels/cuda/decode_block.cuh"

namespace thermoe::cuda {

// ---- The fetching warp.

// A DeviceExpert, a word of 8 bytes a lane: loaded two jobs ahead.
struct ExpertWords {
  uint64_t word = 0;
  static constexpr int kWords = sizeof(DeviceExpert) / 8;
  static_assert(sizeof(DeviceExpert) == 9 * 8 && sizeof(DeviceWeight) == 4 * 8);

  __device__ void load(const DeviceExpert* expert, int lane) {
    if (lane < kWords) word = reinterpret_cast<const uint64_t*>(expert)[lane];
  }
  // Number 0: gate_up, 1: down. All lanes call.
  __device__ DeviceWeight weight(int number) const {
    const int at = 1 + 4 * number;
    DeviceWeight w;
    w.data = reinterpret_cast<const uint8_t*>(__shfl_sync(0xFFFFFFFFu, word, at));
    w.lo = reinterpret_cast<const uint8_t*>(__shfl_sync(0xFFFFFFFFu, word, at + 1));
    w.scales = reinterpret_cast<const uint8_t*>(__shfl_sync(0xFFFFFFFFu, word, at + 2));
    const uint64_t factors = __shfl_sync(0xFFFFFFFFu, word, at + 3);
    w.base = __uint_as_float(static_cast<uint32_t>(factors));
    w.plane_ratio = __uint_as_float(static_cast<uint32_t>(factors >> 32));
    return w;
  }
};

// Two warps: the first fetches each stage's first unit of weights, the second the second.
struct Fetcher {
  const Block& block;
  int half;
  Cursor unit, job;

  __device__ void post(const Ticket& ticket, ExpertForm form, const DeviceWeight& w) {
    Shared& shared = block.shared;
    Job& next = shared.jobs[job.at];
    wait(&shared.job_empty[job.at], job.round ^ 1);
    if (block.lane == 0) {
      next.kind = ticket.kind;
      next.form = form;
      next.instance = ticket.tiled() ? shared.table.instance[ticket.entry] : ticket.entry;
      next.tile = ticket.tile;
      next.count = ticket.count;
      next.ratio = w.plane_ratio;
      next.factor = form == ExpertForm::kBf16   ? 1.0f
                    : form == ExpertForm::kInt8 ? kScaleUnit * w.base
                                                : kScaleUnit * w.base * w.plane_ratio;
      arrive(&shared.job_full[job.at]);
    }
    job.advance(kJobRing);
  }

  // This half's unit of a stage, once it is empty: a run of blocks, and with it the scales.
  __device__ void fetch_unit(const uint8_t* data, uint32_t bytes, const uint8_t* scales,
                             uint32_t scale_bytes) const {
    const Cursor at = unit.after(half, block.unit_count);
    uint64_t* full = &block.shared.full[at.at];
    unsigned char* to = block.unit(at);
    block.wait_until_empty(at);
    if constexpr (THERMOE_BULK_COPY) {
      if (block.lane == 0) {
        arrive_expecting(full, bytes + scale_bytes);
        copy_bulk(to, data, bytes, full);
        if (scale_bytes > 0) copy_bulk(to + kUnitScales, scales, scale_bytes, full);
      }
      __syncwarp();
    } else {
      copy_vectors(to, data, bytes, block.lane);
      copy_vectors(to + kUnitScales, scales, scale_bytes, block.lane);
      arrive_after_copies(full);
    }
  }

  __device__ void fetch(const Ticket& ticket, ExpertForm form, const DeviceWeight& w, int groups) {
    const int step = weight_units(form) + token_tiles(ticket.count);
    const int64_t first = int64_t{ticket.tile} * groups;
    const uint8_t* data = (half == 0 ? w.data : w.lo) + first * kBlockBytes;
    const uint8_t* scales = w.scales + first * kScaleBlockBytes;
    const bool fetches = half < weight_units(form);
    const bool scaled = half == 0 && form != ExpertForm::kBf16;
#pragma unroll 1
    for (int group = 0; group < groups; group += kStageGroups) {
      const auto now = static_cast<uint32_t>(min(kStageGroups, groups - group));
      if (fetches) fetch_unit(data, now * kBlockBytes, scales, scaled ? now * kScaleBlockBytes : 0);
      data += kStageGroups * kBlockBytes;
      scales += kStageGroups * kScaleBlockBytes;
      unit = unit.after(step, block.unit_count);
    }
  }

  __device__ Ticket look_ahead(TicketReader& tickets, ExpertWords& words) const {
    const Ticket ticket = tickets.next(block.arguments, block.shared.table);
    if (ticket.tiled())
      words.load(block.arguments.experts + block.shared.table.instance[ticket.entry], block.lane);
    return ticket;
  }

  __device__ void run() {
    const DecodeExpertsArguments& a = block.arguments;
    TicketReader tickets = block.tickets();
    ExpertWords words, next_words, later_words;
    Ticket ticket = look_ahead(tickets, words), next = look_ahead(tickets, next_words);
#pragma unroll 1
    for (;;) {
      const Ticket later = look_ahead(tickets, later_words);
      const bool up = ticket.kind == JobKind::kUp;
      const ExpertForm form = ticket.tiled()
                                  ? static_cast<ExpertForm>(block.shared.table.form[ticket.entry])
                                  : ExpertForm::kBf16;
      const DeviceWeight w = words.weight(up ? 0 : 1);
      if (half == 0) post(ticket, form, w);
      if (ticket.kind == JobKind::kEnd) return;
      if (ticket.tiled()) fetch(ticket, form, w, (up ? a.hidden : a.inter) / kGroup);
      ticket = next;
      words = next_words;
      next = later;
      next_words = later_words;
    }
  }
};

// ---- The warp that fetches activations, and waits for the blocks that make them. A lane a token.

struct Feeder {
  const Block& block;
  Cursor unit, job;
  // Of the 32 jobs from `batch` on, a lane's: what it waits for.
  int batch = -kWarp;
  const int* counter = nullptr;
  int least = 0;
  bool ready = true;

  // `entry`: of the job `number`, which is kDown, as those after it.
  __device__ void look_at_batch(int number, int entry) {
    batch = number;
    const int ticket =
        static_cast<int>(blockIdx.x) + (batch + block.lane) * static_cast<int>(gridDim.x);
    const JobTable& table = block.shared.table;
    const Ticket read = read_ticket(block.arguments, table, ticket, entry);
    ready = read.kind != JobKind::kDown;
    if (ready) return;
    counter = block.workspace.up_done + table.instance[read.entry];
    least = up_jobs_of(table, read.entry);
  }

  // An answer takes as long as a tile: so ask for several jobs at once.
  __device__ void wait_until_ready(int number, int entry) {
    constexpr int kAsk = 16;
    if (number >= batch + kWarp) look_at_batch(number, entry);
    bool asked = false;
    while ((__ballot_sync(0xFFFFFFFFu, ready) >> (number - batch) & 1) == 0) {
      if (!ready && batch + block.lane < number + kAsk) ready = load_acquire(counter) >= least;
      asked = true;
    }
    if (asked) order_with_copies();
  }

  // `row` of each lane's token, `bytes` of it.
  __device__ void feed_stage(const unsigned char* row, int count, int tiles, uint32_t bytes) {
    Shared& shared = block.shared;
    const int tile = block.lane / 8;
    const Cursor mine = unit.after(min(tile, tiles - 1), block.unit_count);
    block.wait_until_empty(mine);
    __syncwarp();
    if constexpr (THERMOE_BULK_COPY) {
      const int rows = min(8, max(0, count - 8 * tile));
      if (block.lane % 8 == 0 && tile < tiles)
        arrive_expecting(&shared.full[mine.at], static_cast<uint32_t>(rows) * bytes);
      __syncwarp();
      if (block.lane < count)
        copy_bulk(block.unit(mine) + block.lane % 8 * kRowPitch, row, bytes, &shared.full[mine.at]);
    } else {
      for (int token = 0; token < count; ++token) {
        const uint64_t from = __shfl_sync(0xFFFFFFFFu, reinterpret_cast<uint64_t>(row), token);
        unsigned char* to =
            block.unit(unit.after(token / 8, block.unit_count)) + token % 8 * kRowPitch;
        for (int c = 16 * block.lane; c < static_cast<int>(bytes); c += 16 * kWarp)
          copy_vector(to + c, reinterpret_cast<const unsigned char*>(from) + c);
      }
      for (int t = 0; t < tiles; ++t)
        arrive_after_copies(&shared.full[unit.after(t, block.unit_count).at]);
    }
    unit = unit.after(tiles, block.unit_count);
  }

  __device__ int32_t pair_of(const Ticket& ticket) const {
    if (ticket.count == 0) return 0;
    return block.arguments.packed[ticket.first + min(block.lane, ticket.count - 1)];
  }

  __device__ void feed(const Ticket& ticket, int32_t pair) {
    const DecodeExpertsArguments& a = block.arguments;
    const bool up = ticket.kind == JobKind::kUp;
    const auto form = static_cast<ExpertForm>(block.shared.table.form[ticket.entry]);
    const __nv_bfloat16* row =
        up ? a.x + int64_t{pair / a.k} * a.hidden : block.workspace.inner + int64_t{pair} * a.inter;
    const int groups = (up ? a.hidden : a.inter) / kGroup, tiles = token_tiles(ticket.count);
    const int skip = weight_units(form);
#pragma unroll 1
    for (int group = 0; group < groups; group += kStageGroups) {
      unit = unit.after(skip, block.unit_count);
      feed_stage(reinterpret_cast<const unsigned char*>(row + group * kGroup), ticket.count, tiles,
                 static_cast<uint32_t>(min(kStageGroups, groups - group) * kGroup * 2));
    }
  }

  __device__ void run() {
    TicketReader tickets = block.tickets();
    Ticket ticket = tickets.next(block.arguments, block.shared.table);
    int32_t pair = pair_of(ticket);
#pragma unroll 1
    for (int number = 0;; ++number) {
      const Ticket next = tickets.next(block.arguments, block.shared.table);
      const int32_t next_pair = pair_of(next);
      wait(&block.shared.job_empty[job.at], job.round ^ 1);
      if (block.lane < kChunkTokens) block.shared.jobs[job.at].pairs[block.lane] = pair;
      __syncwarp();
      if (block.lane == 0) arrive(&block.shared.job_full[job.at]);
      job.advance(kJobRing);
      if (ticket.kind == JobKind::kEnd) return;
      if (ticket.kind != JobKind::kCombine) {
        if (ticket.kind == JobKind::kDown) wait_until_ready(number, ticket.entry);
        feed(ticket, pair);
      }
      ticket = next;
      pair = next_pair;
    }
  }
};

}  // namespace thermoe::cuda
