"""Tiles of an expert's weights as operands of a product: UNITS units by COLUMNS columns, bf16.

A unit is two rows that stand 8 apart in a tile of 16: gate and up of a unit of gate_up, rows g and g + 8 of down. Unit
u is g = u % 8 of tile u / 8. Both rows have the same offset, in bf16 blocks `data` and `lo`, or share the bytes of
nested planes: each is read once and feeds two products. Formats: kernels/cuda/decode_experts.h, docs/kernels.md.
"""

import triton
import triton.language as tl

from .portable import add_bf16, f32_to_bf16, multiply_bf16


@triton.jit
def block_offsets(unit, groups, COLUMNS: tl.constexpr):
    """[U, COLUMNS] where the first columns of units [U] stand in [tiles, groups, 8 rows, 32] bf16, columns in fragment
    order: its vectors of 8 are contiguous, vector v of row g at v ^ g / 2."""
    column = tl.arange(0, COLUMNS)
    row = (unit // 8) * groups * 256 + (unit % 8) * 32
    vector = (column % 32 // 8)[None, :] ^ (unit % 8 // 2)[:, None]
    offsets = row[:, None] + (column // 32 * 256)[None, :] + vector * 8 + (column % 8)[None, :]
    return tl.max_contiguous(tl.multiple_of(offsets, (1, 8)), (1, 8))


@triton.jit
def fragment_position(column):
    """Where column c of its 32 stands in fragment order."""
    c = column % 32
    position = column // 32 * 32 + c % 8 // 2 * 8 + c // 16 * 4 + c % 16 // 8 * 2 + c % 2
    return tl.max_contiguous(tl.multiple_of(position, 2), 2)


@triton.jit
def scales_of(codes, UNITS: tl.constexpr):
    """2^-12 times the scales of rows [2 UNITS, groups], as bf16, exact. codes: each row's word, which has the codes of
    rows g, g + 16, g + 8 and g + 24 of its block. A code is binary16 with fewer bits."""
    row = tl.arange(0, 2 * UNITS)
    byte = row // 16 % 2 + row // 8 % 2 * 2
    code = codes >> (byte * 8)[:, None]
    half = (((code & 0x7F) << 6) | ((code & 0x80) << 8)).to(tl.uint16).to(tl.float16, bitcast=True)
    return f32_to_bf16(half.to(tl.float32))


@triton.jit
def nibbles(words, PLACE: tl.constexpr):
    """[..., 2]: 136 + v of the nibbles PLACE and PLACE + 4 of each word, exact: the nibble v + 8 is the lower mantissa
    of a bf16 in [128, 256)."""
    pair = (((words >> (4 * PLACE)) & 0x000F000F) | 0x43004300).to(tl.uint32, bitcast=True)
    even = (pair & 0xFFFF).to(tl.uint16).to(tl.bfloat16, bitcast=True)
    odd = (pair >> 16).to(tl.uint16).to(tl.bfloat16, bitcast=True)
    return tl.join(even, odd)


@triton.jit
def plane_values(words, UNITS: tl.constexpr, COLUMNS: tl.constexpr):
    """136 + v of a plane's blocks as they stand, words [blocks, groups * (g, t, k, m)]: [2 UNITS, COLUMNS] in
    natural order. Which is what makes 16 bytes a thread the operand of the matrix instructions, without anything
    moving between threads."""
    upper = tl.join(nibbles(words, 0), nibbles(words, 2))  # rows g, columns 2t .. and 2t + 8 ..
    lower = tl.join(nibbles(words, 1), nibbles(words, 3))  # rows g + 8
    values = tl.join(upper, lower)
    values = tl.reshape(values, (UNITS // 16, COLUMNS // 32, 8, 4, 2, 2, 2, 2, 2))  # b c g t k m odd half side
    return tl.reshape(tl.permute(values, (0, 5, 8, 2, 1, 4, 7, 3, 6)), (2 * UNITS, COLUMNS))


@triton.jit
def plane_operand(words, scale, UNITS: tl.constexpr, COLUMNS: tl.constexpr):
    """2^-12 v scale, rounded once: bf16 [2 UNITS, COLUMNS] in natural order. Words of blocks; scales_of() of the rows.

    Nothing in here may be a number that the kernel computes: the compiler then moves the operand through shared
    memory, which takes half as many instructions again (Triton 3.6)."""
    scale = tl.reshape(tl.broadcast_to(scale[:, :, None], (2 * UNITS, COLUMNS // 32, 32)), (2 * UNITS, COLUMNS))
    return multiply_bf16(add_bf16(plane_values(words, UNITS, COLUMNS), -136.0), scale)
