"""What the interpreter (TRITON_INTERPRET=1) and the compiler don't do alike.

The interpreter keeps bf16 as its bits: it has no arithmetic on it, multiplies it wrongly and cuts instead of
rounding. These do the same on both; compiled, each is the one operation that its name says.
"""

import triton
import triton.language as tl

INTERPRETED = tl.constexpr(bool(triton.knobs.runtime.interpret))


@triton.jit
def bf16_to_f32(value):
    """Exact."""
    if INTERPRETED:
        return (value.to(tl.uint16, bitcast=True).to(tl.uint32) << 16).to(tl.float32, bitcast=True)
    else:
        return value.to(tl.float32)


@triton.jit
def f32_to_bf16(value):
    """To the nearest, ties to even. NaN stays NaN."""
    if INTERPRETED:
        bits = value.to(tl.uint32, bitcast=True)
        rounded = ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).to(tl.uint16)
        return tl.where(value == value, rounded, 0x7FFF).to(tl.uint16).to(tl.bfloat16, bitcast=True)
    else:
        return value.to(tl.bfloat16)


@triton.jit
def add_bf16(a, b: tl.constexpr):
    """a + b, rounded to bf16; b a literal."""
    if INTERPRETED:
        return f32_to_bf16(bf16_to_f32(a) + b)
    else:
        return a + tl.full((), b, tl.bfloat16)


@triton.jit
def multiply_bf16(a, b):
    """a * b, rounded to bf16."""
    if INTERPRETED:
        return f32_to_bf16(bf16_to_f32(a) * bf16_to_f32(b))
    else:
        return a * b


@triton.jit
def dot_bf16(a, b, sum):
    """sum + a b: a [M, K], b [K, N] in bf16, sum [M, N] in f32."""
    if INTERPRETED:
        return sum + tl.dot(bf16_to_f32(a), bf16_to_f32(b), input_precision="ieee")
    else:
        return tl.dot(a, b, sum)
