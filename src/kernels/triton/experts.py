"""Grouped experts: gate_up, down and combine, a launch each, for experts of one form (bf16, int8 or int4).

    inner[p] = silu(gate x) * up x                             p = 0 .. offsets[I] - 1, packed pairs
    part[pair] = down inner[p]                                 pair = packed[p] = token * k + slot
    out[token] = sum over used slots of weight * part          in the slots' order, f32

A program of gate_up and down is BLOCK_M pairs of one instance by UNITS units of two rows each (weights.py). Weights are
the left operand: with few tokens the matrix instructions are as full as with many, and what is computed of nested
planes stays in the registers that it was computed in. A plan of mixed forms takes a launch a form: programs whose
instance has another form return, as do those that the plan has no tile for.

Bytes: the used experts' weights once for each BLOCK_M pairs (from the L2 cache, where the launch order keeps 8 tiles
together), x, inner and part. FLOPs: 6 hidden inter a pair. Tolerance: 4e-3 of the norm against float64 of the same
weights and of inner rounded to bf16, as the CUDA kernels' (bf16 inner, part and out; nested weights rounded to bf16).
"""

import triton
import triton.language as tl

from .portable import bf16_to_f32, dot_bf16, f32_to_bf16
from .tables import BF16, DOWN, GATE_UP, INT8, base_and_ratio, form_of, pointer_of, tile_of
from .weights import block_offsets, fragment_position, plane_operand, scales_of

TOGETHER = tl.constexpr(8)  # tiles of pairs that go by the same weights at about the same time


@triton.jit
def program_place(pairs, instances, units, BLOCK_M: tl.constexpr, UNITS: tl.constexpr):
    """(slot, first unit) of a program: of grid_programs()."""
    slots = tl.minimum(pairs, instances + pairs // BLOCK_M)
    columns = tl.cdiv(units, UNITS)
    program = tl.program_id(0)
    band = program // (TOGETHER * columns)
    height = tl.minimum(slots - band * TOGETHER, TOGETHER)
    within = program % (TOGETHER * columns)
    return band * TOGETHER + within % height, within // height * UNITS


def grid_programs(pairs: int, instances: int, units: int, block_m: int, block_units: int) -> int:
    """Programs of gate_up (units = inter) or down (units = hidden / 2)."""
    return min(pairs, instances + pairs // block_m) * -(-units // block_units)


@triton.jit
def multiply_blocks(experts, instance, weight: tl.constexpr, x, row, unit, groups, BLOCK_M: tl.constexpr,
                    UNITS: tl.constexpr, COLUMNS: tl.constexpr):
    """Both rows of `unit` [U] times rows `row` [M] of x [., 32 groups]: bf16 blocks. Two [UNITS, BLOCK_M] in f32."""
    column = tl.arange(0, COLUMNS)
    offsets = block_offsets(unit, groups, COLUMNS)
    upper = pointer_of(experts, instance, weight, tl.bfloat16) + offsets
    lower = pointer_of(experts, instance, weight + 1, tl.bfloat16) + offsets
    rows = x + row.to(tl.int64)[:, None] * (groups * 32) + column[None, :]
    first = tl.zeros((UNITS, BLOCK_M), tl.float32)
    second = tl.zeros((UNITS, BLOCK_M), tl.float32)
    for group in range(0, groups, COLUMNS // 32):
        there = (column // 32 < groups - group)[None, :]
        a = tl.load(upper, mask=there, other=0.0)
        b = tl.load(lower, mask=there, other=0.0)
        right = tl.trans(tl.load(rows, mask=there, other=0.0))
        first = dot_bf16(a, right, first)
        second = dot_bf16(b, right, second)
        upper += COLUMNS * 8
        lower += COLUMNS * 8
        rows += COLUMNS
    return first, second


@triton.jit
def multiply_planes(experts, instance, weight: tl.constexpr, x, row, first_unit, units, groups,
                    BOTH: tl.constexpr, BLOCK_M: tl.constexpr, UNITS: tl.constexpr, COLUMNS: tl.constexpr):
    """The same of nested planes: int8 (BOTH) or int4. Units `first_unit` .. + UNITS - 1, none from `units` on."""
    base, ratio = base_and_ratio(experts, instance, weight)
    word = tl.arange(0, COLUMNS * 4)
    block = tl.minimum(first_unit // 16 + tl.arange(0, UNITS // 16), units // 16 - 1)
    offsets = (block * groups)[:, None] * 128 + word[None, :]
    hi = pointer_of(experts, instance, weight, tl.int32) + offsets
    lo = pointer_of(experts, instance, weight + 1, tl.int32) + offsets
    out = tl.arange(0, 2 * UNITS)
    block = tl.minimum(first_unit // 16 + out // 32, units // 16 - 1)
    group_of = tl.arange(0, COLUMNS // 32)
    codes = pointer_of(experts, instance, weight + 2, tl.int32)
    codes += (block * groups * 8 + out % 8)[:, None] + group_of[None, :] * 8
    column = tl.arange(0, COLUMNS)
    rows = x + row.to(tl.int64)[:, None] * (groups * 32) + fragment_position(column)[None, :]
    sum = tl.zeros((2 * UNITS, BLOCK_M), tl.float32)
    fine = tl.zeros((2 * UNITS, BLOCK_M), tl.float32)
    for group in range(0, groups, COLUMNS // 32):
        left = groups - group
        hi_words = tl.load(hi, mask=(word // 128 < left)[None, :], other=0)
        scale = scales_of(tl.load(codes, mask=(group_of < left)[None, :], other=0), UNITS)
        right = tl.trans(tl.load(rows, mask=(column // 32 < left)[None, :], other=0.0))
        sum = dot_bf16(plane_operand(hi_words, scale, UNITS, COLUMNS), right, sum)
        if BOTH:
            lo_words = tl.load(lo, mask=(word // 128 < left)[None, :], other=0)
            fine = dot_bf16(plane_operand(lo_words, scale, UNITS, COLUMNS), right, fine)
        hi += COLUMNS * 4
        lo += COLUMNS * 4
        codes += COLUMNS // 4
        rows += COLUMNS
    sum *= ratio
    if BOTH:
        sum += fine
    sum *= base * 4096.0
    sides = tl.reshape(sum, (UNITS // 8, 2, 8, BLOCK_M))
    return tl.split(tl.reshape(tl.permute(sides, (0, 2, 3, 1)), (UNITS, BLOCK_M, 2)))


@triton.jit
def multiply(experts, instance, weight: tl.constexpr, x, row, first_unit, units, groups,
             FORM: tl.constexpr, BLOCK_M: tl.constexpr, UNITS: tl.constexpr, COLUMNS: tl.constexpr):
    if FORM == BF16:
        unit = tl.minimum(first_unit + tl.arange(0, UNITS), units - 1)
        return multiply_blocks(experts, instance, weight, x, row, unit, groups, BLOCK_M, UNITS, COLUMNS)
    else:
        return multiply_planes(experts, instance, weight, x, row, first_unit, units, groups, FORM == INT8,
                               BLOCK_M, UNITS, COLUMNS)


@triton.jit(do_not_specialize=["pairs", "k", "instances"])
def gate_up(experts, x, offsets, packed, inner, pairs, k, hidden, inter, instances, FORM: tl.constexpr,
            I_BOUND: tl.constexpr, BLOCK_M: tl.constexpr, UNITS: tl.constexpr, COLUMNS: tl.constexpr):
    """inner [pairs, inter] of x [T, hidden], both bf16 in fragment order; rows of inner are packed pairs.

    experts: DeviceExpert [I]; offsets [I + 1]; packed [offsets[I]]; pairs = T k. Grid: grid_programs(pairs,
    instances, inter, BLOCK_M, UNITS). I <= I_BOUND; hidden and inter multiples of 32, their product below 2^30; pairs
    below 2^31."""
    slot, first_unit = program_place(pairs, instances, inter, BLOCK_M, UNITS)
    instance, begin, end = tile_of(slot, offsets, instances, pairs, BLOCK_M, I_BOUND)
    if begin >= end:
        return
    if form_of(experts, instance) != FORM:
        return
    place = begin + tl.arange(0, BLOCK_M)
    row = tl.load(packed + tl.minimum(place, end - 1)) // k
    gate, up = multiply(experts, instance, GATE_UP, x, row, first_unit, inter, hidden // 32, FORM, BLOCK_M,
                        UNITS, COLUMNS)
    value = gate / (1.0 + tl.exp(-gate)) * up
    # Units (tile, half, t, odd) of each 32 to fragment order (t, tile, half, odd).
    value = tl.reshape(value, (UNITS // 32, 2, 2, 4, 2, BLOCK_M))
    value = tl.reshape(tl.permute(value, (0, 3, 1, 2, 4, 5)), (UNITS, BLOCK_M))
    column = first_unit + tl.arange(0, UNITS)
    to = inner + place.to(tl.int64)[:, None] * inter + column[None, :]
    tl.store(to, f32_to_bf16(tl.trans(value)), mask=(place < end)[:, None] & (column < inter)[None, :])


@triton.jit(do_not_specialize=["pairs", "instances"])
def down(experts, inner, offsets, packed, part, pairs, hidden, inter, instances, FORM: tl.constexpr,
         I_BOUND: tl.constexpr, BLOCK_M: tl.constexpr, UNITS: tl.constexpr, COLUMNS: tl.constexpr):
    """part [pairs, hidden] bf16, rows in the plan's order token * k + slot: unused pairs' are not written.

    inner [pairs, inter] as gate_up writes it. Grid: grid_programs(pairs, instances, hidden / 2, BLOCK_M, UNITS)."""
    slot, first_unit = program_place(pairs, instances, hidden // 2, BLOCK_M, UNITS)
    instance, begin, end = tile_of(slot, offsets, instances, pairs, BLOCK_M, I_BOUND)
    if begin >= end:
        return
    if form_of(experts, instance) != FORM:
        return
    place = begin + tl.arange(0, BLOCK_M)
    row = tl.minimum(place, end - 1)
    upper, lower = multiply(experts, instance, DOWN, inner, row, first_unit, hidden // 2, inter // 32, FORM,
                            BLOCK_M, UNITS, COLUMNS)
    # Units (tile, g) of a side each to rows (tile, side, g).
    value = tl.reshape(tl.join(upper, lower), (UNITS // 8, 8, BLOCK_M, 2))
    value = tl.reshape(tl.permute(value, (0, 3, 1, 2)), (2 * UNITS, BLOCK_M))
    column = 2 * first_unit + tl.arange(0, 2 * UNITS)
    pair = tl.load(packed + row)
    to = part + pair.to(tl.int64)[:, None] * hidden + column[None, :]
    tl.store(to, f32_to_bf16(tl.trans(value)), mask=(place < end)[:, None] & (column < hidden)[None, :])


@triton.jit(do_not_specialize=["k"])
def combine(part, plan_instances, plan_weights, out, k, hidden, COLUMNS: tl.constexpr):
    """out [T, hidden] bf16 of part [T, k, hidden]. plan_instances [T, k], unused slots -1; plan_weights [T, k].

    Grid: (T, ceil(hidden / COLUMNS))."""
    token = tl.program_id(0).to(tl.int64)
    column = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    there = column < hidden
    sum = tl.zeros((COLUMNS,), tl.float32)
    for slot in range(k):
        pair = token * k + slot
        used = tl.load(plan_instances + pair) >= 0
        value = bf16_to_f32(tl.load(part + pair * hidden + column, mask=there & used, other=0.0))
        sum += tl.load(plan_weights + pair) * value
    tl.store(out + token * hidden + column, f32_to_bf16(sum), mask=there)
