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
  uint32_t vector[kRows];  // where, in 16 bytes, this thread's part of a row begins
  int rows;                // of them that exist
  uint32_t scale;          // where this lane's row has its scales

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
        vector[i] =
            source_row(tile, first + 4 * i) * static_cast<uint32_t>(product.row_bytes / 16) +
            static_cast<uint32_t>(lane % 8);
    if (Fp8 && 32 * warp + lane < tile.pairs)
      scale = source_row(tile, 32 * warp + lane) *
              static_cast<uint32_t>(product.row_bytes / kStageBytes);
  }

  // `from`: the tile's first piece, and the one after it; `step`: from a tile of 16 rows to the
  // next.
  __device__ void copy_weights(const Tile& tile, int block, int bytes, int rank) {
    unsigned char* to = shared.stages[place.stage].weights;
    uint64_t* full = &shared.full[place.stage];
    if (warp == 0 && lane == 0)
      arrive_expecting(full, static_cast<uint32_t>(8 * bytes * tile.pieces));
    const int share = tile.shared ? kTilePieces / kClusterBlocks : kTilePieces;
    const int mine = share / 4;
    const int piece = (tile.shared ? rank * share : 0) + warp * mine + lane;
    if (lane >= mine || piece >= tile.pieces) return;
    const DeviceWeight& weight =
        Up ? product.experts[tile.instance].gate_up : product.experts[tile.instance].down;
    const uint8_t* from = (piece % 2 == 0 ? weight.data : weight.lo) +
                          int64_t{(tile.row / 8 + piece) / 2} * product.row_bytes * 8 +
                          int64_t{block} * kPiece;
    if (tile.shared)
      copy_bulk_to(3, to + piece * kPiece, from, static_cast<uint32_t>(8 * bytes), full);
    else
      copy_bulk(to + piece * kPiece, from, static_cast<uint32_t>(8 * bytes), full);
  }

  __device__ void copy_tokens(const Tile& tile, int block, int bytes) {
    const int row = 32 * warp + lane / 8, column = lane % 8;
    if (16 * column < bytes) {
      unsigned char* to = shared.stages[place.stage].tokens + row * kStageBytes;
#pragma unroll
      for (int i = 0; i < kRows; ++i)
        if (i < rows)
          copy_vector(
              to + 4 * i * kStageBytes + 16 * (column ^ ((row + 4 * i) % 8)),
              product.activations + int64_t{vector[i] + 8 * static_cast<uint32_t>(block)} * 16);
    }
    if (Fp8 && 32 * warp + lane < tile.pairs)
      copy_word(&shared.scales[place.stage][32 * warp + lane],
                product.activation_scales + scale + block);
    arrive_after_copies(&shared.full[place.stage]);
  }

  __device__ void run() {
    TileCursor tiles(product, shared);
    for (Tile tile; tiles.next(tile);) {
      find_rows(tile);
      for (int block = 0, left = product.row_bytes; left > 0; ++block, left -= kStageBytes) {
        const int bytes = min(left, kStageBytes);
        wait(&shared.empty[place.stage], place.round ^ 1);
        copy_weights(tile, block, bytes, tiles.rank);
        copy_tokens(tile, block, bytes);
        place.advance();
      }
    }
  }
};

#endif  // THERMOE_WGMMA

}  // namespace thermoe::cuda
