"""Nested planes back to bf16, for products of many tokens: what unpack_experts() of kernels/cuda does, bit for bit.

    to[i] = experts[i], but where it is nested and has tokens: bf16 blocks of the same values at scratch + i * 6 hidden
    inter bytes

Bytes of an expert: hidden inter (3 * 33/32 both planes, 3 * 17/32 one) read, 6 written.
"""

import triton
import triton.language as tl

from .portable import f32_to_bf16
from .tables import DOWN, EXPERT_WORDS, GATE_UP, INT4, INT8, base_and_ratio, pointer_of


@triton.jit
def nibble(words, PLACE: tl.constexpr):
    """v as f32."""
    return ((words >> (4 * PLACE)) & 15).to(tl.float32) - 8.0


@triton.jit
def scaled(hi, lo, ratio, both, scale, PLACE: tl.constexpr):
    value = ratio * nibble(hi, PLACE)
    value = tl.where(both, value + nibble(lo, PLACE), value)
    return f32_to_bf16(value * scale)


@triton.jit
def scale_of(codes, byte):
    """A scale times 2^-12: its code is binary16 with fewer bits."""
    code = codes >> (byte * 8)
    half = (((code & 0x7F) << 6) | ((code & 0x80) << 8)).to(tl.uint16).to(tl.float16, bitcast=True)
    return half.to(tl.float32)


@triton.jit
def unpack_weight(experts, instance, weight: tl.constexpr, both, rows, columns, to, program, programs,
                  WORDS: tl.constexpr):
    """A matrix [rows, columns] to its upper and lower bf16 blocks, one after the other at `to`. A word of a plane is 4
    values of each: columns 2t, 2t + 1, 2t + 8 and 2t + 9 of rows g and g + 8."""
    hi = pointer_of(experts, instance, weight, tl.int32)
    lo = pointer_of(experts, instance, weight + 1, tl.int32)
    codes = pointer_of(experts, instance, weight + 2, tl.int32)
    base, ratio = base_and_ratio(experts, instance, weight)
    unit = base * 4096.0
    groups = columns // 32
    words = rows // 32 * groups * 128
    column = tl.arange(0, 4)
    for begin in range(program * WORDS, words, programs * WORDS):
        # Words in the order of the result: block, tile m, g, t, k.
        at = begin + tl.arange(0, WORDS)
        block = at // 128
        m = at // 64 % 2
        g = at // 8 % 8
        t = at // 2 % 4
        k = at % 2
        there = at < words
        from_word = block * 128 + g * 16 + t * 4 + k * 2 + m
        hi_words = tl.load(hi + from_word, mask=there, other=0)
        lo_words = tl.load(lo + from_word, mask=there & both, other=0)
        scales = tl.load(codes + block * 8 + g, mask=there, other=0)
        tile = block // groups * 2 + m
        place = (tile * groups + block % groups) * 256 + g * 32 + (t ^ (g // 2)) * 8 + k * 4
        place = tl.max_contiguous(tl.multiple_of(place[:, None] + column[None, :], (1, 4)), (1, 4))
        for side in tl.static_range(2):
            scale = scale_of(scales, m + 2 * side) * unit
            even = tl.join(scaled(hi_words, lo_words, ratio, both, scale, side),
                           scaled(hi_words, lo_words, ratio, both, scale, side + 2))
            odd = tl.join(scaled(hi_words, lo_words, ratio, both, scale, side + 4),
                          scaled(hi_words, lo_words, ratio, both, scale, side + 6))
            # nibbles of places 0, 4, 2, 6: [W, half, odd]
            values = tl.reshape(tl.join(even, odd), (WORDS, 4))
            tl.store(to + side * (rows * columns // 2) + place, values, mask=there[:, None])


@triton.jit
def dequantize_and_unpack(experts, offsets, to, scratch, hidden, inter, WORDS: tl.constexpr):
    """experts, to: DeviceExpert [I]; offsets [I + 1]; scratch: 6 hidden inter bytes an instance, aligned to 16.
    Grid: (any number of programs that share an instance, I). hidden, inter multiples of 32."""
    instance = tl.program_id(1)
    program = tl.program_id(0)
    programs = tl.num_programs(0)
    values = hidden.to(tl.int64) * inter
    start = scratch.to(tl.pointer_type(tl.bfloat16), bitcast=True) + instance * 3 * values
    start = tl.multiple_of(start, 16)
    form = tl.load(experts + instance * EXPERT_WORDS).to(tl.int32)
    nested = (form == INT8) | (form == INT4)
    if program == 0:
        word = tl.arange(0, 16)
        entry = tl.load(experts + instance * EXPERT_WORDS + word, mask=word < EXPERT_WORDS, other=0)
        address = start.to(tl.int64, bitcast=True)
        whole = tl.where(word == 0, 0, tl.where((word == 4) | (word == 8), 0x3F8000003F800000, 0))  # 1.0, 1.0
        whole = tl.where(word == GATE_UP, address, tl.where(word == GATE_UP + 1, address + 2 * values, whole))
        whole = tl.where(word == DOWN, address + 4 * values, tl.where(word == DOWN + 1, address + 5 * values, whole))
        tl.store(to + instance * EXPERT_WORDS + word, tl.where(nested, whole, entry), mask=word < EXPERT_WORDS)
    if not nested:
        return
    if tl.load(offsets + instance + 1) == tl.load(offsets + instance):
        return
    both = form == INT8
    unpack_weight(experts, instance, GATE_UP, both, 2 * inter, hidden, start, program, programs, WORDS)
    unpack_weight(experts, instance, DOWN, both, hidden, inter, start + 2 * values, program, programs, WORDS)
