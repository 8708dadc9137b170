// The warps of the decode kernel that multiply, and the one that tells other blocks of it.
#pragma once

#include "kernels/cuda/decode_block.cuh"

namespace thermoe::cuda {

// ---- The warp that tells other blocks: one lane.

struct Teller {
  const Block& block;
  Cursor at[kTeams];
  bool ended[kTeams] = {};

  // Jobs that a team has written by now, at most a ring of them.
  __device__ int written(int team) const {
    int count = 0;
    for (Cursor next = at[team];
         count < kSignalRing && phase_done(&block.shared.written[team][next.at], next.round);
         next.advance(kSignalRing))
      ++count;
    return count;
  }

  __device__ void tell(int team, int count) {
    for (; count > 0; --count) {
      int* counter = block.shared.counters[team][at[team].at];
      if (counter == nullptr) {
        ended[team] = true;
        return;
      }
      atomicAdd(counter, 1);
      arrive(&block.shared.signalled[team][at[team].at]);
      at[team].advance(kSignalRing);
    }
  }

  // A release takes long, so one serves all the jobs that are done by then.
  __device__ void run() {
    static_assert(kTeams == 2);
    while (!ended[0] || !ended[1]) {
      const int first = ended[0] ? 0 : written(0), second = ended[1] ? 0 : written(1);
      if (first + second == 0) continue;
      order_with_copies();
      __threadfence();
      tell(0, first);
      tell(1, second);
    }
  }
};

// ---- The multiplying warps.

__device__ inline void team_barrier(int team) {
  asm volatile("bar.sync %0, %1;" ::"r"(1 + team), "n"(kTeamThreads) : "memory");
}

// Row tiles of 16 that a job has.
template <ExpertForm Form>
constexpr int kRowTiles = Form == ExpertForm::kBf16 ? 1 : 2;

template <ExpertForm Form, int NT>
using Sums = Accumulator[kRowTiles<Form>][NT];

struct Multiplier {
  const Block& block;
  int team, warp, thread;  // the latter two within the team
  Cursor unit, job, signal;
  int reduction = 0;  // which of the two buffers of sums is next

  __device__ const Job& next_job() const {
    wait(&block.shared.job_full[job.at], job.round);
    return block.shared.jobs[job.at];
  }
  // The warp has no more use for the job.
  __device__ void end_job() {
    __syncwarp();
    if (block.lane == 0) arrive(&block.shared.job_empty[job.at]);
    job.advance(kJobRing);
  }

  // What the team wrote to global memory counts as one job of `counter`; null ends the signals.
  __device__ void signal_written(int* counter) {
    Shared& shared = block.shared;
    wait(&shared.signalled[team][signal.at], signal.round ^ 1);
    if (thread == 0) shared.counters[team][signal.at] = counter;
    __syncwarp();
    if (block.lane == 0) arrive(&shared.written[team][signal.at]);
    signal.advance(kSignalRing);
  }

  // Sums one token tile over the team's warps. Value i of the result, i = thread < 128 M, is
  // that of accumulator i % 4 of lane i % 128 / 4 of row tile i / 128.
  template <int M>
  __device__ float reduce(const Accumulator (&sums)[M]) {
    auto& buffer = block.shared.sums[team][reduction];
    reduction ^= 1;
#pragma unroll
    for (int m = 0; m < M; ++m)
      *reinterpret_cast<float4*>(&buffer[warp][m * 128 + block.lane * 4]) =
          make_float4(sums[m].v[0], sums[m].v[1], sums[m].v[2], sums[m].v[3]);
    team_barrier(team);
    float sum = 0;
    if (thread < 128 * M) {
#pragma unroll
      for (int w = 0; w < kTeamWarps; ++w) sum += buffer[w][thread];
    }
    return sum;
  }

  template <ExpertForm Form, int NT>
  __device__ void run_tile(const Job& work);
  template <ExpertForm Form, int NT>
  __device__ void accumulate(const Job& work, Sums<Form, NT>& sums);
  template <ExpertForm Form>
  __device__ void write(const Job& work, int token_tile, float value) const;
  template <ExpertForm Form>
  __device__ void run_form(const Job& work);
  __device__ void combine(const Job& work) const;
  __device__ void skip(const Job& work);
  __device__ void run();
};

// A warp takes groups warp, warp + 8, ... of each stage.
template <ExpertForm Form, int NT>
__device__ void Multiplier::accumulate(const Job& work, Sums<Form, NT>& sums) {
  constexpr int kWeightUnits = weight_units(Form), kUnits = kWeightUnits + NT;
  Shared& shared = block.shared;
  const int groups =
      (work.kind == JobKind::kUp ? block.arguments.hidden : block.arguments.inter) / kGroup;
  const float ratio = work.ratio;
  const uint32_t exponents = exponents_of_128();
#pragma unroll 1
  for (int first = 0; first < groups; first += kStageGroups) {
    // A lane a unit. It may have been the other team's before: only once that emptied it does its
    // barrier's phase tell of this stage.
    const Cursor mine = unit.after(min(block.lane, kUnits - 1), block.unit_count);
    block.wait_until_empty(mine);
    wait(&shared.full[mine.at], mine.round);
    __syncwarp();
    const unsigned char* units[kUnits];
#pragma unroll
    for (int i = 0; i < kUnits; ++i) units[i] = block.unit(unit.after(i, block.unit_count));
    const auto multiply = [&](int group) {
      Activations x[NT];
#pragma unroll
      for (int n = 0; n < NT; ++n) x[n] = load_rows(units[kWeightUnits + n], group, block.lane);
      if constexpr (Form == ExpertForm::kBf16)
        multiply_bf16<NT>(units[0], units[1], group, block.lane, x, sums);
      else
        multiply_nested<Form == ExpertForm::kInt8, NT>(units[0], units[1], group, block.lane, ratio,
                                                       exponents, x, sums);
    };
    const int here = groups - first;
#pragma unroll
    for (int group = 0; group < kStageGroups; group += 2 * kTeamWarps) {
      if (NT == 1 && group + 2 * kTeamWarps <= here) {  // no branch in between: the two overlap
        multiply(group + warp);
        multiply(group + warp + kTeamWarps);
      } else {
        if (group + warp < here) multiply(group + warp);
        if (group + warp + kTeamWarps < here) multiply(group + warp + kTeamWarps);
      }
    }
    __syncwarp();
    if (block.lane < kUnits) add_shared_release(&shared.emptied[mine.at]);
    unit = unit.after(kUnits, block.unit_count);
  }
}

// Writes value `thread` of a reduced token tile; for kUp the gate's threads get the up.
template <ExpertForm Form>
__device__ void Multiplier::write(const Job& work, int token_tile, float value) const {
  const DecodeExpertsArguments& a = block.arguments;
  constexpr int M = kRowTiles<Form>;
  const int i = thread, m = i / 128, g = i % 128 / 16, t = i / 4 % 4, c = i % 4;
  const int token = 8 * token_tile + 2 * t + c % 2;
  const bool valid = i < 128 * M && token < work.count;
  value *= work.factor;
  if (work.kind == JobKind::kUp) {
    const float other = __shfl_down_sync(0xFFFFFFFFu, value, 2);
    if (!valid || c >= 2) return;
    const float gated = value / (1.0f + __expf(-value)) * other;
    const int unit = work.tile * 8 * M + m * 8 + g;
    const int at = unit / kGroup * kGroup + fragment_position(unit % kGroup);
    block.workspace.inner[int64_t{work.pairs[token]} * a.inter + at] = __float2bfloat16(gated);
  } else if (valid) {
    const int row = work.tile * 16 * M + m * 16 + g + (c >= 2 ? 8 : 0);
    block.workspace.part[int64_t{work.pairs[token]} * a.hidden + row] = value;
  }
}

template <ExpertForm Form, int NT>
__device__ void Multiplier::run_tile(const Job& work) {
  constexpr int M = kRowTiles<Form>;
  Sums<Form, NT> sums;
  accumulate<Form, NT>(work, sums);
#pragma unroll
  for (int n = 0; n < NT; ++n) {
    if (8 * n < work.count) {
      Accumulator tile[M];
#pragma unroll
      for (int m = 0; m < M; ++m) tile[m] = sums[m][n];
      write<Form>(work, n, reduce<M>(tile));
    }
  }
}

template <ExpertForm Form>
__device__ void Multiplier::run_form(const Job& work) {
  if (token_tiles(work.count) == 1)
    run_tile<Form, 1>(work);
  else
    run_tile<Form, 2>(work);
}

// Four columns a thread.
__device__ inline void Multiplier::combine(const Job& work) const {
  const DecodeExpertsArguments& a = block.arguments;
  const int token = work.instance, column = work.tile * kCombineColumns + 4 * thread;
  const int64_t first = int64_t{token} * a.k;
  for (int slot = block.lane; slot < a.k; slot += kWarp) {
    const int instance = a.plan_instances[first + slot];
    if (instance < 0) continue;
    const int load = a.offsets[instance + 1] - a.offsets[instance];
    wait_for_count(block.workspace.down_done + instance,
                   down_tiles(a.experts[instance].form, a.hidden) * chunks_of(load));
  }
  __syncwarp();
  if (column >= a.hidden) return;
  float4 sum = make_float4(0, 0, 0, 0);
#pragma unroll 8
  for (int slot = 0; slot < a.k; ++slot) {
    const bool used = a.plan_instances[first + slot] >= 0;
    const float weight = used ? a.plan_weights[first + slot] : 0.0f;
    const float* from = block.workspace.part + (first + slot) * a.hidden + column;
    const float4 part = used ? *reinterpret_cast<const float4*>(from) : make_float4(0, 0, 0, 0);
    sum.x = fmaf(weight, part.x, sum.x);
    sum.y = fmaf(weight, part.y, sum.y);
    sum.z = fmaf(weight, part.z, sum.z);
    sum.w = fmaf(weight, part.w, sum.w);
  }
  __nv_bfloat162* out =
      reinterpret_cast<__nv_bfloat162*>(a.out + int64_t{token} * a.hidden + column);
  out[0] = __floats2bfloat162_rn(sum.x, sum.y);
  out[1] = __floats2bfloat162_rn(sum.z, sum.w);
}

// Past the units of another team's job.
__device__ inline void Multiplier::skip(const Job& work) {
  if (work.kind != JobKind::kUp && work.kind != JobKind::kDown) return;
  const int columns = work.kind == JobKind::kUp ? block.arguments.hidden : block.arguments.inter;
  const int units = ceil_div(columns, kStageGroups * kGroup) *
                    (weight_units(work.form) + token_tiles(work.count));
  const int laps = units / block.unit_count;
  unit.round += static_cast<uint32_t>(laps);
  unit = unit.after(units - laps * block.unit_count, block.unit_count);
}

__device__ inline void Multiplier::run() {
  for (int number = 0;; ++number) {
    const Job& work = next_job();
    if (work.kind == JobKind::kEnd) break;
    if (number % kTeams != team) {
      skip(work);
      end_job();
      continue;
    }
    if (work.kind == JobKind::kCombine) {
      combine(work);
      end_job();
      continue;
    }
    if (work.form == ExpertForm::kBf16)
      run_form<ExpertForm::kBf16>(work);
    else if (work.form == ExpertForm::kInt8)
      run_form<ExpertForm::kInt8>(work);
    else
      run_form<ExpertForm::kInt4>(work);
    const bool up = work.kind == JobKind::kUp;
    int* done = (up ? block.workspace.up_done : block.workspace.down_done) + work.instance;
    end_job();
    signal_written(done);
  }
  signal_written(nullptr);
}

}  // namespace thermoe::cuda
