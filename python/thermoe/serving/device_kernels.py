"""What stands before and behind a launch of the router, as a launch each.

Bytes: logits read and written once; weights and ids of both sides read, one written: a few kilobytes, below the cost of
the launches.
"""

import torch
import triton
import triton.language as tl


@triton.jit
def _stage(logits, row_stride, count, mask, staged, real, experts, HAS_COUNT: tl.constexpr, HAS_MASK: tl.constexpr,
           BLOCK: tl.constexpr):
    row = tl.program_id(0)
    column = tl.arange(0, BLOCK)
    there = column < experts
    x = tl.load(logits + row.to(tl.int64) * row_stride + column, mask=there, other=0.0).to(tl.float32)
    bad = tl.sum(tl.where((x == x) & (tl.abs(x) < float("inf")), 0, 1))
    used = bad == 0
    if HAS_COUNT:
        used = used & (row < tl.load(count))
    if HAS_MASK:
        used = used & (tl.load(mask + row) != 0)
    tl.store(staged + row.to(tl.int64) * experts + column, tl.where(used, x, 0.0), mask=there)
    tl.store(real + row, used.to(tl.uint8))


@triton.jit
def _merge(changed, real, new_weights, new_ids, weights, ids, out_weights, out_ids, k, BLOCK: tl.constexpr):
    row = tl.program_id(0)
    slot = tl.arange(0, BLOCK)
    there = slot < k
    at = row.to(tl.int64) * k + slot
    take = (tl.load(changed + row) != 0) & (tl.load(real + row) != 0)
    weight = tl.load(weights + at, mask=there)
    expert = tl.load(ids + at, mask=there)
    new_weight = tl.load(new_weights + at, mask=there)
    new_expert = tl.load(new_ids + at, mask=there).to(expert.dtype)
    tl.store(out_weights + at, tl.where(take, new_weight, weight), mask=there)
    tl.store(out_ids + at, tl.where(take, new_expert, expert), mask=there)


def stage(logits, count=None, mask=None):
    """(float32 [T, E], uint8 [T]) of logits [T, E], of any row stride: the logits, and 1 for the rows that are real. Those
    that are not are zeros: at and after `count` (int32 []), 0 in `mask` (bool [T]), or with what is no number."""
    tokens, experts = logits.shape
    staged = torch.empty((tokens, experts), dtype=torch.float32, device=logits.device)
    real = torch.empty(tokens, dtype=torch.uint8, device=logits.device)
    _stage[(tokens,)](logits, logits.stride(0), real if count is None else count,
                      real if mask is None else mask.view(torch.uint8), staged, real, experts,
                      HAS_COUNT=count is not None, HAS_MASK=mask is not None, BLOCK=triton.next_power_of_2(experts),
                      num_warps=1 if experts <= 128 else 4)
    return staged, real


def merge(plan, real, weights, ids):
    """(weights, ids) [T, k], contiguous: the plan's in the real rows that it changed."""
    weights, ids = weights.contiguous(), ids.contiguous()
    tokens, k = ids.shape
    out_weights, out_ids = torch.empty_like(weights), torch.empty_like(ids)
    _merge[(tokens,)](plan.changed, real, plan.weights.to(weights.dtype), plan.ids, weights, ids, out_weights, out_ids, k,
                      BLOCK=triton.next_power_of_2(k), num_warps=1)
    return out_weights, out_ids
