"""The device structures that the kernels read: struct DeviceExpert of kernels/cuda/decode_experts.h, as int64 words."""

import triton
import triton.language as tl

BF16 = tl.constexpr(0)  # enum ExpertForm
INT8 = tl.constexpr(1)
INT4 = tl.constexpr(2)

EXPERT_WORDS = tl.constexpr(9)  # form, then two DeviceWeight
GATE_UP = tl.constexpr(1)  # words at which a DeviceWeight begins: data, lo, scales, (base, plane_ratio)
DOWN = tl.constexpr(5)


@triton.jit
def form_of(experts, instance):
    return tl.load(experts + instance * EXPERT_WORDS).to(tl.int32)


@triton.jit
def pointer_of(experts, instance, word, type: tl.constexpr):
    """The pointer at a word of an expert: aligned to 16 bytes."""
    address = tl.load(experts + instance * EXPERT_WORDS + word)
    return tl.multiple_of(address.to(tl.pointer_type(type), bitcast=True), 16)


@triton.jit
def base_and_ratio(experts, instance, weight):
    """The factors of a DeviceWeight: floats."""
    word = tl.load(experts + instance * EXPERT_WORDS + weight + 3)
    base = (word & 0xFFFFFFFF).to(tl.int32).to(tl.float32, bitcast=True)
    ratio = (word >> 32).to(tl.int32).to(tl.float32, bitcast=True)
    return base, ratio


@triton.jit
def tile_of(slot, offsets, instances, pairs, BLOCK_M: tl.constexpr, I_BOUND: tl.constexpr):
    """(instance, first, end) of the tile in a slot of the grid: its pairs are packed[first] .. packed[end - 1], none
    where first >= end.

    There are min(pairs, instances + pairs / BLOCK_M) slots, which the host knows. Slot numbers are given out by
    `offsets` alone, with one sum and no scan: where pairs are few, a slot is a place in `packed` and has a tile
    where one begins; else the tiles of instance i begin at slot offsets[i] / BLOCK_M + i, which leaves room
    for as many as it can have.
    """
    i = tl.arange(0, I_BOUND)
    begin = tl.load(offsets + i, mask=i < instances, other=0)
    by_pair = pairs <= instances + pairs // BLOCK_M
    slots = tl.where(by_pair, begin, begin // BLOCK_M + i)
    instance = tl.sum(((slots <= slot) & (i < instances)).to(tl.int32), 0) - 1
    start = tl.load(offsets + instance)
    end = tl.load(offsets + instance + 1)
    within = slot - start
    if by_pair:
        within = tl.where(within % BLOCK_M == 0, within, end - start)
    else:
        within = (slot - start // BLOCK_M - instance) * BLOCK_M
    first = start + within
    return instance, first, tl.minimum(end, first + BLOCK_M)


