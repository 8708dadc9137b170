// How a grouped product is cut into tiles, and what the warpgroups of a block of the prefill kernel
// share.
#pragma once

#include <cstdint>

#include "kernels/cuda/decode_experts.h"
#include "kernels/cuda/wgmma.cuh"

namespace thermoe::cuda {

// out[pair, rows] = weight activations[pair], of every instance of one form.
struct Product {
  const DeviceExpert* experts;
  const int32_t* offsets;  // [instances + 1]
  const int32_t* packed;   // [offsets[instances]]
  int instances, k;
  int rows;       // of the weight
  int row_bytes;  // of its rows and of the activations': a multiple of 64 (bf16) or 128 (fp8)
  const uint8_t* activations;      // up: [tokens, row_bytes]; down: [packed pairs, row_bytes]
  const float* activation_scales;  // fp8: [the same, row_bytes / 128]
  uint8_t* out;                    // up: [packed pairs, out_columns]; down: [pairs, out_columns]
  float* out_scales;               // fp8, up: [packed pairs, out_columns / 128]
  int out_columns;
};

constexpr int kTilePairs = 128, kTileRows = 256;  // of a block; two blocks make a cluster
constexpr int kTilePieces = kTileRows / 8;
constexpr int kStageBytes = 128;  // of a row: 64 columns of bf16 or 128 of fp8
constexpr int kPrefillStages = 4;
constexpr int kConsumers = 2;  // warpgroups, 64 pairs each
constexpr int kPrefillThreads = (1 + kConsumers) * kWarpgroup;
constexpr int kClusterBlocks = 2;
// Pairs of tiles of one expert's tokens that a cluster's neighbours work on at the same rows.
constexpr int kTokenGroup = 8;

struct PrefillStage {
  unsigned char tokens[kTilePairs * kStageBytes];
  unsigned char weights[kTileRows * kStageBytes];
};

struct PrefillShared {
  PrefillStage stages[kPrefillStages];
  float scales[kPrefillStages][kTilePairs];  // fp8: of the stage's activations
  float row_scales[kConsumers][kTileRows];   // fp8: of the tile's rows
  uint64_t full[kPrefillStages], empty[kPrefillStages];
  int32_t first_item[kMostInstances + 1];
  int32_t offset[kMostInstances + 1];
};

// A position in the ring of stages.
struct RingPlace {
  int stage = 0;
  uint32_t round = 0;
  __device__ void advance() {
    if (++stage == kPrefillStages) stage = 0, ++round;
  }
};

__device__ inline int ceil_over(int a, int b) { return (a + b - 1) / b; }

// An item is two blocks' work. Two tiles of tokens times one of rows, whose weights both blocks get
// from one read; a last odd tile of tokens times two of rows.
__device__ inline int items_of(int load, int row_tiles) {
  const int token_tiles = ceil_over(load, kTilePairs);
  return token_tiles / 2 * row_tiles + token_tiles % 2 * ceil_over(row_tiles, 2);
}

// By one warp.
__device__ inline void fill_items(const Product& product, ExpertForm form, int lane,
                                  PrefillShared& shared) {
  const int row_tiles = ceil_over(product.rows, kTileRows);
  int items = 0;
  for (int base = 0; base < product.instances; base += kWarp) {
    const int i = base + lane;
    const bool exists = i < product.instances;
    const int begin = exists ? product.offsets[i] : 0, end = exists ? product.offsets[i + 1] : 0;
    const bool ours = exists && product.experts[i].form == form;
    int sum = ours ? items_of(end - begin, row_tiles) : 0;
#pragma unroll
    for (int step = 1; step < kWarp; step *= 2) {
      const int before = __shfl_up_sync(0xFFFFFFFFu, sum, step);
      if (lane >= step) sum += before;
    }
    if (exists) {
      shared.first_item[i + 1] = items + sum;
      shared.offset[i] = begin;
      if (i + 1 == product.instances) shared.offset[i + 1] = end;
    }
    items += __shfl_sync(0xFFFFFFFFu, sum, kWarp - 1);
  }
  if (lane == 0) shared.first_item[0] = 0;
}

struct Tile {
  int instance;
  int first, pairs;  // in the packed order; pairs up to kTilePairs
  int row, pieces;   // first row; pieces of 8 rows, 0 where the block has none
  bool shared;       // the cluster's blocks have the same rows
};

// A cluster's items one after the other, as each of its blocks sees them.
struct TileCursor {
  const Product& product;
  const PrefillShared& shared;
  int item, rank;
  int instance = 0;

  __device__ TileCursor(const Product& p, const PrefillShared& s)
      : product(p),
        shared(s),
        item(static_cast<int>(blockIdx.x) / kClusterBlocks),
        rank(static_cast<int>(blockIdx.x) % kClusterBlocks) {}

  __device__ bool next(Tile& tile) {
    if (item >= shared.first_item[product.instances]) return false;
    while (shared.first_item[instance + 1] <= item) ++instance;
    const int local = item - shared.first_item[instance];
    item += static_cast<int>(gridDim.x) / kClusterBlocks;
    const int row_tiles = ceil_over(product.rows, kTileRows);
    const int begin = shared.offset[instance], load = shared.offset[instance + 1] - begin;
    const int token_tiles = ceil_over(load, kTilePairs), doubles = token_tiles / 2;
    int token_tile = token_tiles - 1, row_tile = 0;
    tile.shared = local < doubles * row_tiles;
    if (tile.shared) {
      const int group = local / (kTokenGroup * row_tiles), at = local % (kTokenGroup * row_tiles);
      const int size = min(kTokenGroup, doubles - group * kTokenGroup);
      row_tile = at / size;
      token_tile = 2 * (group * kTokenGroup + at % size) + rank;
    } else {
      row_tile = 2 * (local - doubles * row_tiles) + rank;
    }
    tile.instance = instance;
    tile.first = begin + token_tile * kTilePairs;
    tile.pairs = min(kTilePairs, load - token_tile * kTilePairs);
    tile.row = row_tile * kTileRows;
    tile.pieces = max(0, min(kTilePieces, (product.rows - tile.row) / 8));
    return true;
  }
};

}  // namespace thermoe::cuda
