// The warpgroup of a block of the prefill kernel that fills the ring of stages: weights by bulk
// copies, one of which may serve both blocks of the cluster; activations by the threads, as each
// row stands elsewhere and has to be swizzled.
#pragma once

#include "kernels/cuda/prefill_tiles.cuh"

namespace thermoe::cuda {

#if THERMOE_WGMMA

// A warp brings 32 rows of activations: a thread 16 bytes of every fourth.
template <bool Up, bool Fp8>
struct Gatherer {
  static constexpr int kRows = 8;

  const Product& product;
  PrefillShared& shared;
  int warp, lane;
  RingPlace place;
  const uint8_t* from[kRows];  // this thread's part of its rows, in the next stage
  int rows;                    // of them that exist
  const float* scale;          // of this lane's row, in the next stage; null where it has none
  const uint8_t* weights;      // this lane's piece of the first stage; null where it has none
  int piece;

  __device__ uint32_t source_row(const Tile& tile, int row) const {
    const int pair = tile.first + row;
    return static_cast<uint32_t>(Up ? product.packed[pair] / product.k : pair);
  }

  __device__ void find_rows(const Tile& tile) {
    const int first = 32 * warp + lane / 8;
    rows = tile.pieces == 0 ? 0 : max(0, min(kRows, (tile.pairs - first + 3) / 4));
#pragma unroll
    for (int i = 0; i < kRows; ++i)
      if (i < rows)
        from[i] = product.activations +
                  int64_t{source_row(tile, first + 4 * i)} * product.row_bytes + 16 * (lane % 8);
    scale = nullptr;
    if (Fp8 && 32 * warp + lane < tile.pairs)
      scale = product.activation_scales +
              int64_t{source_row(tile, 32 * warp + lane)} * (product.row_bytes / kStageBytes);
  }

  // A lane a piece of 8 rows, of this block's share.
  __device__ void find_weights(const Tile& tile, int rank) {
    const int share = tile.shared ? kTilePieces / kClusterBlocks : kTilePieces;
    const int mine = share / 4;
    piece = (tile.shared ? rank * share : 0) + warp * mine + lane;
    weights = nullptr;
    if (lane >= mine || piece >= tile.pieces) return;
    const DeviceExpert& expert = product.experts[tile.instance];
    const DeviceWeight& weight = Up ? expert.gate_up : expert.down;
    weights = (piece % 2 == 0 ? weight.data : weight.lo) +
              int64_t{(tile.row / 8 + piece) / 2} * product.row_bytes * 8;
  }

  __device__ void copy_weights(const Tile& tile, int block, int bytes) {
    unsigned char* to = shared.stages[place.stage].weights + piece * kPiece;
    uint64_t* full = &shared.full[place.stage];
    if (warp == 0 && lane == 0)
      arrive_expecting(full, static_cast<uint32_t>(8 * bytes * tile.pieces));
    if (weights == nullptr) return;
    const uint8_t* from = weights + int64_t{block} * kPiece;
    if (tile.shared)
      copy_bulk_to(3, to, from, static_cast<uint32_t>(8 * bytes), full);
    else
      copy_bulk(to, from, static_cast<uint32_t>(8 * bytes), full);
  }

  // Rows four apart are in turn at the upper and the lower half of the swizzle.
  __device__ void copy_tokens(int bytes) {
    unsigned char* to = shared.stages[place.stage].tokens + (32 * warp + lane / 8) * kStageBytes;
    const int column = 16 * (lane % 8 ^ lane / 8);
    if (rows == kRows && bytes == kStageBytes) {
#pragma unroll
      for (int i = 0; i < kRows; ++i)
        copy_vector(to + 4 * i * kStageBytes + (column ^ i % 2 * 64), from[i]);
    } else if (16 * (lane % 8) < bytes) {
#pragma unroll
      for (int i = 0; i < kRows; ++i)
        if (i < rows) copy_vector(to + 4 * i * kStageBytes + (column ^ i % 2 * 64), from[i]);
    }
#pragma unroll
    for (int i = 0; i < kRows; ++i) from[i] += kStageBytes;
    if (Fp8 && scale != nullptr) copy_word(&shared.scales[place.stage][32 * warp + lane], scale++);
    arrive_after_copies(&shared.full[place.stage]);
  }

  __device__ void run() {
    TileCursor tiles(product, shared);
    for (Tile tile; tiles.next(tile);) {
      find_rows(tile);
      find_weights(tile, tiles.rank);
      for (int block = 0, left = product.row_bytes; left > 0; ++block, left -= kStageBytes) {
        const int bytes = min(left, kStageBytes);
        wait(&shared.empty[place.stage], place.round ^ 1);
        copy_weights(tile, block, bytes);
        copy_tokens(bytes);
        place.advance();
      }
    }
  }
};

#endif  // THERMOE_WGMMA

}  // namespace thermoe::cuda
