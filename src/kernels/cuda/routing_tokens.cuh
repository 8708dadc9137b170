// Each token by itself: its top-k, or what is best at slope and marginal prices; then the packing,
// which is all that the tokens share. One block, or many that meet once at a barrier of the grid.
#pragma once

#include "kernels/cuda/routing_pack.cuh"
#include "kernels/cuda/routing_utility.cuh"

namespace thermoe::cuda {

constexpr int kMostTokenBlocks = 128;     // all resident at once, two a multiprocessor at worst
constexpr int kMostTokensPerBlock = 128;  // so that a block's count of an instance fits a byte

// How a launch is spread; made on the host.
struct TokenShape {
  int blocks = 1, warps = 1;
  int tokens_per_block = 0;
  int rows = 0;   // ceil(I / 32)
  int words = 0;  // ceil(tokens_per_block / 32)
};

struct TokenBoard {
  PackBoard pack;
  int* before;    // [I] users in the blocks before
  Fixed* charge;  // [rows * 32], where priced
  Fixed* row;     // [warps, rows * 32], where priced
  float* scores;  // [warps, E], where priced
};

// Where things stand in a block's shared memory; the bytes they take. `base` null: only the bytes.
__host__ __device__ inline size_t carve_tokens(unsigned char* base, const TokenShape& shape,
                                               const RouterInput& input, bool priced,
                                               TokenBoard* board) {
  Carver carver{base};
  const size_t padded = static_cast<size_t>(shape.rows) * 32;
  TokenBoard out{};
  out.pack = carve_pack(carver, padded, shape.words,
                        static_cast<size_t>(shape.tokens_per_block) * input.k);
  out.before = carver.take<int>(padded);
  if (priced) {
    out.charge = carver.take<Fixed>(padded);
    out.row = carver.take<Fixed>(padded * shape.warps);
    out.scores = carver.take<float>(static_cast<size_t>(input.experts) * shape.warps);
  }
  if (base != nullptr) *board = out;
  return carver.at;
}

// The same in the workspace of a launch of many blocks.
struct TokenWorkspace {
  unsigned char* loads;  // [blocks, rows * 32] tokens of each block
  unsigned* first_bad;   // [blocks]
  int* changed;          // [blocks]
};
__host__ __device__ inline size_t carve_token_workspace(unsigned char* base,
                                                        const TokenShape& shape,
                                                        TokenWorkspace* space) {
  const size_t blocks = static_cast<size_t>(shape.blocks);
  const size_t loads = blocks * static_cast<size_t>(shape.rows) * 32;
  if (base != nullptr)
    *space = {base, reinterpret_cast<unsigned*>(base + loads),
              reinterpret_cast<int*>(base + loads + blocks * 4)};
  return loads + blocks * 8;
}

template <int kSlots, bool kPriced>
__device__ inline void route_token(const RoutingLaunch& launch, const Catalog& catalog,
                                   const TokenBoard& board, const TokenShape& shape, int t, int n,
                                   int warp, int lane) {
  TokenScores<kSlots> scores;
  scores.load(launch.input, t, lane);
  const TopK top = select_top_k(scores, launch.input, lane);
  note_bad(board.pack, scores.bad_expert, top.mass, t, lane);
  int instance = top.id < 0 ? -1 : catalog.begin_of(top.id);
  float score = top.score;
  if constexpr (kPriced) {
    Fixed* row = board.row + warp * shape.rows * 32;
    float* kept = board.scores + warp * catalog.experts;
    fill_row(launch, catalog, scores, top, board.charge, row, shape.rows, lane);
    scores.store(kept, catalog.experts, lane);
    __syncwarp();
    const unsigned mask = 0xffffffffu >> (32 - shape.rows);
    instance = select_of_row<true>(row, kept, catalog, mask, shape.rows, launch.input.k, lane);
    score = instance < 0 ? 0.0f : kept[catalog.expert_of(instance)];
    __syncwarp();
  }
  const int id = instance < 0 ? -1 : catalog.expert_of(instance);
  write_token(launch, board.pack, id, instance, score, top.mass, top.id, t, n, lane);
}

// Adds up the blocks' loads: of all blocks into total, of those before this one into `before`. A
// thread reads four instances at a time; sums of two stand in the halves of a word (T < 2^16).
__device__ inline void sum_loads(const TokenBoard& board, const TokenWorkspace& space, int rows) {
  const int width = rows * 8, groups = static_cast<int>(blockDim.x) / width;
  const int column = static_cast<int>(threadIdx.x) % width;
  const int group = static_cast<int>(threadIdx.x) / width;
  if (group >= groups) return;
  unsigned all[2] = {0, 0}, before[2] = {0, 0};
  const unsigned* loads = reinterpret_cast<const unsigned*>(space.loads);
#pragma unroll 4
  for (int b = group; b < static_cast<int>(gridDim.x); b += groups) {
    const unsigned four = __ldcg(loads + b * width + column);
    const unsigned even = four & 0x00ff00ffu, odd = (four >> 8) & 0x00ff00ffu;
    all[0] += even;
    all[1] += odd;
    if (b < static_cast<int>(blockIdx.x)) {
      before[0] += even;
      before[1] += odd;
    }
  }
  for (int j = 0; j < 4; ++j) {
    const int shift = j >= 2 ? 16 : 0;
    atomicAdd(&board.pack.total[column * 4 + j], static_cast<int>((all[j & 1] >> shift) & 0xffffu));
    atomicAdd(&board.before[column * 4 + j], static_cast<int>((before[j & 1] >> shift) & 0xffffu));
  }
}

// What a block tells the others. All threads.
__device__ inline void publish_loads(const TokenBoard& board, const TokenWorkspace& space,
                                     int instances, int rows) {
  const int padded = rows * 32;
  for (int i = threadIdx.x; i < padded; i += blockDim.x) {
    const int load = i < instances ? board.pack.load_of(i) : 0;
    space.loads[static_cast<size_t>(blockIdx.x) * padded + i] = static_cast<unsigned char>(load);
    board.pack.total[i] = 0;
    board.before[i] = 0;
  }
  if (threadIdx.x == 0) {
    space.first_bad[blockIdx.x] = board.pack.counts->first_bad;
    space.changed[blockIdx.x] = board.pack.counts->changed;
  }
}

// The counts of all blocks, into this block's. One thread a block.
__device__ inline void sum_counts(const TokenBoard& board, const TokenWorkspace& space) {
  for (int b = threadIdx.x; b < static_cast<int>(gridDim.x); b += blockDim.x) {
    if (b == static_cast<int>(blockIdx.x)) continue;
    atomicMin(&board.pack.counts->first_bad, __ldcg(space.first_bad + b));
    atomicAdd(&board.pack.counts->changed, __ldcg(space.changed + b));
  }
}

// The kernel's body. `meet` makes all blocks' writes to the workspace visible to all blocks.
template <int kSlots, bool kPriced, bool kGrid, typename Meet>
__device__ inline void route_tokens(const RoutingLaunch& launch, const TokenShape& shape,
                                    unsigned char* shared, unsigned char* workspace,
                                    const Meet& meet) {
  TokenBoard board;
  carve_tokens(shared, shape, launch.input, kPriced, &board);
  const Catalog catalog = catalog_of(launch, launch.instances.first == nullptr);
  const int lane = static_cast<int>(threadIdx.x) & 31, warp = static_cast<int>(threadIdx.x) >> 5;
  const int begin = static_cast<int>(blockIdx.x) * shape.tokens_per_block;
  const int count = min(shape.tokens_per_block, launch.input.tokens - begin);
  board.pack.clear(catalog.instances);
  if constexpr (kPriced)
    for (int i = threadIdx.x; i < catalog.instances; i += blockDim.x)
      board.charge[i] =
          price_to_fixed(launch.prices.slope, i) + price_to_fixed(launch.prices.marginal, i);
  __syncthreads();
  for (int n = warp; n < count; n += shape.warps)
    route_token<kSlots, kPriced>(launch, catalog, board, shape, begin + n, n, warp, lane);
  __syncthreads();
  if constexpr (kGrid) {
    TokenWorkspace space;
    carve_token_workspace(workspace, shape, &space);
    publish_loads(board, space, catalog.instances, shape.rows);
    meet();
    sum_loads(board, space, shape.rows);
    if (blockIdx.x == 0) sum_counts(board, space);
  } else {
    for (int i = threadIdx.x; i < catalog.instances; i += blockDim.x)
      board.pack.total[i] = board.pack.load_of(i);
  }
  __syncthreads();
  if (warp == 0) sum_offsets(board.pack, catalog.instances, shape.rows, lane);
  if (blockIdx.x == 0) count_distinct(catalog, board.pack);
  __syncthreads();
  write_packed(launch, board.pack, kGrid ? board.before : nullptr, begin, count);
  if (blockIdx.x != 0) return;
  write_offsets(launch, board.pack, catalog.instances);
  if (threadIdx.x == 0) write_report(*board.pack.counts, launch.output.report);
}

}  // namespace thermoe::cuda
