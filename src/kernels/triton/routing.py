"""Routing: each token's choice, the packed order of all of them, and what happened.

    route_tokens   gate, top-k, weights; at prices the best instances by utility minus price     a program a token
    pack_plan      counts, offsets and the pairs of each instance by rising number               a program an instance
    route_report   GpuRoutingReport of kernels/cuda/routing.h                                    one program

Semantics and bits are those of kernels/cuda/routing_tokens.cuh: on given scores (gate none) ids, instances, weights
and packed order are the CPU's bit for bit; from logits scores are within 1e-6 of float64's. Utilities and prices are
counted in steps of 2^-32 (routing/grid.h), and nothing may be contracted: compile with enable_fp_fusion=False.
"""

import triton
import triton.language as tl

from .portable import bf16_to_f32

SOFTMAX = tl.constexpr(1)  # enum Gate; 0: none
SIGMOID = tl.constexpr(2)
HALF = tl.constexpr(1)  # flags of route_tokens: scores are bf16
RENORMALIZE = tl.constexpr(2)
BIAS = tl.constexpr(4)  # the pointer of that name is given
LAYOUT = tl.constexpr(8)  # first and expert are
SLOPE = tl.constexpr(16)
MARGINAL = tl.constexpr(32)
SCALE = tl.constexpr(64)
KEPT_BEST = tl.constexpr(128)
KEPT_INSTANCE = tl.constexpr(256)
KEPT_UNEVEN = tl.constexpr(512)

NEVER = tl.constexpr(-(1 << 62))  # the value of what can't be chosen
GRID_SHIFT = tl.constexpr(1.5 * 2.0**20)
STEPS = tl.constexpr(2.0**32)  # of a unit of utility
UTILITY_LIMIT = tl.constexpr(2.0**18)
PRICE_LIMIT = tl.constexpr(2.0**20)
SLOTS = tl.constexpr(16)  # most of a token


@triton.jit
def to_fixed(value):
    """The nearest grid point of |value| < 2^19: float64 to int64 steps."""
    shift = tl.full((), GRID_SHIFT, tl.float64)
    return (value + shift).to(tl.int64, bitcast=True) - shift.to(tl.int64, bitcast=True)


@triton.jit
def from_fixed(value):
    return value.to(tl.float64) * (1.0 / STEPS)


@triton.jit
def price_to_fixed(prices, i, there):
    """The grid point below; 0 where there is no price."""
    price = tl.load(prices + i, mask=there, other=0.0).to(tl.float64)
    price = tl.minimum(tl.maximum(price, -PRICE_LIMIT), PRICE_LIMIT)
    return tl.floor(price * STEPS).to(tl.int64)


@triton.jit
def order_of(score):
    """Rises with the score, 0 .. 2^32 - 1; -0 counts as 0."""
    bits = (score + 0.0).to(tl.int32, bitcast=True)
    bits = tl.where(score == 0.0, 0, bits)
    rising = tl.where(bits < 0, ~bits, bits ^ (-2147483648))
    return rising.to(tl.int64) & 0xFFFFFFFF


@triton.jit
def load_scores(scores, at, there, half):
    wide = tl.load(scores + at, mask=there & (half == 0), other=0.0)
    narrow = tl.load(scores.to(tl.pointer_type(tl.bfloat16), bitcast=True) + at, mask=there & (half != 0), other=0.0)
    return tl.where(half != 0, bf16_to_f32(narrow), wide)


@triton.jit
def is_good(x, gate):
    return (x < float("inf")) & ((gate != 0) | (x >= 0.0))


@triton.jit
def gated(x, good, gate, most, total):
    """Scores of what stands in memory; a bad one counts as 0. most, total: of softmax."""
    if gate == SOFTMAX:
        score = tl.where(good, tl.exp(x - most), 0.0)
        score = tl.where(total > 0.0, tl.div_rn(score, tl.where(total > 0.0, total, 1.0) + tl.zeros_like(score)), 0.0)
    elif gate == SIGMOID:
        score = tl.where(good, tl.div_rn(tl.full(x.shape, 1.0, tl.float32), 1.0 + tl.exp(-x)), 0.0)
    else:
        score = tl.where(good, x, 0.0)
    return score


@triton.jit
def worth_of(score, inverse, k, power_halves, scale, kept_best):
    """(k s / mass)^power / k * scale * kept, on the grid: what an expert's most accurate instance is worth.
    power_halves: 2, 3 or 4. float64, in the CPU's order."""
    x = score.to(tl.float64) * inverse
    slots = k.to(tl.float64)
    worth = x
    if power_halves == 4:
        worth = x * x / slots
    elif power_halves == 3:
        worth = x * tl.sqrt(x) / slots
    worth = tl.minimum(worth * scale, UTILITY_LIMIT)
    return to_fixed(worth * kept_best)


@triton.jit
def capped(worth, least, biased):
    """An outsider stays below the least of the token's own top-k (cap_outsider of kernels/cuda)."""
    utility = from_fixed(worth)
    low = least * (1.0 - 0.01)
    part = (least * 0.01) * utility / (utility + 2.0 * least)
    below = tl.where(utility <= low, worth, to_fixed(low + part))
    return tl.where(biased, tl.minimum(below, to_fixed(least) - 1), below)


@triton.jit
def ranks(order, number, used):
    """Places [SLOTS] by falling order, ties by lower number."""
    before = (order[None, :] > order[:, None]) | ((order[None, :] == order[:, None]) &
                                                  (number[None, :] < number[:, None]))
    return tl.sum((before & used[None, :]).to(tl.int32), 1)


@triton.jit
def own_top_k(score, select, e, experts, k, BOUND: tl.constexpr):
    """The token's own top-k: (ids, scores) [SLOTS] by falling `select`, ties by lower id; -1 and 0 from k on."""
    slot = tl.arange(0, SLOTS)
    ids = tl.full((SLOTS,), -1, tl.int32)
    scores = tl.zeros((SLOTS,), tl.float32)
    keys = tl.where(e < experts, order_of(select) * BOUND + (BOUND - 1 - e), -1)
    for s in range(k):
        id = (BOUND - 1 - (tl.max(keys, 0) & (BOUND - 1))).to(tl.int32)
        ids = tl.where(slot == s, id, ids)
        scores = tl.where(slot == s, tl.sum(tl.where(e == id, score, 0.0), 0), scores)
        keys = tl.where(e == id, -1, keys)
    return ids, scores


@triton.jit
def best_instances(values, score, e, k, BOUND: tl.constexpr):
    """(instances, their experts, their scores) [SLOTS]: k times the best value of experts not yet chosen, ties by
    higher score, then by lower instance. values: changed nowhere else."""
    slot = tl.arange(0, SLOTS)
    i = tl.arange(0, BOUND)
    instances = tl.full((SLOTS,), -1, tl.int32)
    ids = tl.full((SLOTS,), -1, tl.int32)
    scores = tl.zeros((SLOTS,), tl.float32)
    keys = order_of(score) * BOUND + (BOUND - 1 - i)
    for s in range(k):
        best = tl.max(tl.where(values == tl.max(values, 0), keys, -1), 0)
        instance = (BOUND - 1 - (best & (BOUND - 1))).to(tl.int32)
        id = tl.sum(tl.where(i == instance, e, 0), 0)
        instances = tl.where(slot == s, instance, instances)
        ids = tl.where(slot == s, id, ids)
        scores = tl.where(slot == s, tl.sum(tl.where(i == instance, score, 0.0), 0), scores)
        values = tl.where(e == id, NEVER, values)
    return instances, ids, scores


@triton.jit
def mass_of(scores, rank, k):
    """The sum, one by one in the order of falling score."""
    mass = tl.sum(tl.zeros_like(scores), 0)
    for s in range(k):
        mass += tl.sum(tl.where(rank == s, scores, 0.0), 0)
    return mass


@triton.jit
def values_of(own, score, i, e, there, mass, k, power_halves, flags, slope, marginal, scale, kept_best, kept_instance):
    """Utility minus price of each instance i of expert e, in steps."""
    units = tl.where(power_halves == 2, 1, k).to(tl.float64)
    divisor = tl.where(mass > 0.0, mass, 1.0).to(tl.float64)
    inverse = tl.where(mass > 0.0, units / divisor, 0.0)
    factor = tl.load(scale + e, mask=there & ((flags & SCALE) != 0), other=1.0).to(tl.float64)
    kept = tl.load(kept_best + e, mask=there & ((flags & KEPT_BEST) != 0), other=1.0)
    worth = worth_of(score, inverse, k, power_halves, factor, kept)
    if (flags & (SCALE | KEPT_UNEVEN | BIAS)) != 0:
        member = there & (tl.sum((e[:, None] == own[None, :]).to(tl.int32), 1) > 0)
        least = from_fixed(tl.min(tl.where(member, worth, -NEVER), 0))
        worth = tl.where(member, worth, capped(worth, least, (flags & BIAS) != 0))
    part = tl.load(kept_instance + i, mask=there & ((flags & KEPT_INSTANCE) != 0), other=1.0)
    worth = tl.where((flags & KEPT_INSTANCE) != 0, to_fixed(from_fixed(worth) * part), worth)
    price = price_to_fixed(slope, i, there & ((flags & SLOPE) != 0))
    price += price_to_fixed(marginal, i, there & ((flags & MARGINAL) != 0))
    return tl.where(there, worth - price, NEVER)


@triton.jit(do_not_specialize=["row_stride", "experts", "count", "k", "gate", "power_halves", "flags"])
def route_tokens(scores, bias, first, expert, slope, marginal, scale, kept_best, kept_instance, ids, instances, weights,
                 changed, bad, row_stride, experts, count, k, gate, power_halves, flags, PRICED: tl.constexpr,
                 BOUND: tl.constexpr):
    """One token of scores [T, row_stride] (f32, or bf16 with flag HALF), the first E of each row. Grid: (T,).

    bias [E] f32; first [E + 1], expert [I] int32 (ExpertLayout); PRICED: slope, marginal [I], scale [E] f32, kept_best
    [E], kept_instance [I] float64 (kernels/cuda/routing.h). What `flags` doesn't name isn't read. count: I, or E
    without a layout. Out: ids, instances, weights [T, k]; changed [T] uint8; bad [T] int32: -1, or 1 + the token's
    first bad score, or 0 where all are zero. gate: 0 none, 1 softmax, 2 sigmoid. power_halves: 2, 3 or 4.
    E (PRICED: I) <= BOUND, a power of two up to 1024; k <= min(E, 16)."""
    token = tl.program_id(0).to(tl.int64)
    row = token * row_stride
    e = tl.arange(0, BOUND)
    x = load_scores(scores, row + e, e < experts, flags & HALF)
    good = is_good(x, gate) & (e < experts)
    most = tl.max(tl.where(good, x, float("-inf")), 0)
    most = tl.where(most > float("-inf"), most, 0.0)  # else every score is 0
    total = tl.sum(tl.where(good, tl.exp(tl.where(good, x, 0.0) - most), 0.0), 0)
    score = gated(x, good, gate, most, total)
    first_bad = tl.min(tl.where((e < experts) & ~good, e, BOUND), 0)
    select = score + tl.load(bias + e, mask=(e < experts) & ((flags & BIAS) != 0), other=0.0)
    own, own_scores = own_top_k(score, select, e, experts, k, BOUND)
    slot = tl.arange(0, SLOTS)
    own_rank = ranks(order_of(own_scores), own, slot < k)
    mass = mass_of(own_scores, own_rank, k)
    tl.store(bad + token, tl.where(first_bad < BOUND, first_bad + 1, tl.where(mass > 0.0, -1, 0)))
    if PRICED:
        there = e < count
        of = tl.load(expert + e, mask=there & ((flags & LAYOUT) != 0), other=-1)
        of = tl.where((flags & LAYOUT) != 0, of, tl.where(there, e, -1))
        x = load_scores(scores, row + of, there, flags & HALF)
        score = gated(x, there & is_good(x, gate), gate, most, total)
        values = values_of(own, score, e, of, there, mass, k, power_halves, flags, slope, marginal, scale, kept_best,
                           kept_instance)
        instance, id, chosen = best_instances(values, score, of, k, BOUND)
    else:
        id = own
        chosen = own_scores
        instance = tl.load(first + own, mask=(own >= 0) & ((flags & LAYOUT) != 0), other=0)
        instance = tl.where((flags & LAYOUT) != 0, instance, own)
    rank = ranks(order_of(chosen), instance, slot < k)
    to = token * k + rank
    tl.store(ids + to, id, mask=slot < k)
    tl.store(instances + to, instance, mask=slot < k)
    share = tl.where((flags & RENORMALIZE) != 0, tl.div_rn(chosen, mass + tl.zeros_like(chosen)), chosen)
    tl.store(weights + to, share, mask=slot < k)
    same = (id[:, None] == own[None, :]) & (slot < k)[:, None]
    tl.store(changed + token, (tl.sum(tl.sum(same.to(tl.int32), 1), 0) < k).to(tl.uint8))


@triton.jit(do_not_specialize=["pairs", "instances"])
def pack_plan(plan_instances, offsets, packed, pairs, instances, BLOCK: tl.constexpr):
    """offsets [I + 1] and packed [offsets[I]] of plan_instances [pairs], as thermoe::pack has them: the pairs of each
    instance by rising number; what is no instance (-1) is none. Grid: (I,). Reads all pairs twice, from the L2
    cache."""
    instance = tl.program_id(0)
    lower = tl.zeros((BLOCK,), tl.int32)
    own = tl.zeros((BLOCK,), tl.int32)
    for begin in range(0, pairs, BLOCK):
        pair = begin + tl.arange(0, BLOCK)
        i = tl.load(plan_instances + pair, mask=pair < pairs, other=-1)
        lower += ((i >= 0) & (i < instance)).to(tl.int32)
        own += (i == instance).to(tl.int32)
    place = tl.sum(lower, 0)
    end = place + tl.sum(own, 0)
    tl.store(offsets + instance, place)
    tl.store(offsets + instance + 1, end, mask=instance == instances - 1)
    for begin in range(0, pairs, BLOCK):
        pair = begin + tl.arange(0, BLOCK)
        i = tl.load(plan_instances + pair, mask=pair < pairs, other=-1)
        ours = i == instance
        count = tl.cumsum(ours.to(tl.int32), 0)
        tl.store(packed + place + count - 1, pair, mask=ours)
        place += tl.sum(ours.to(tl.int32), 0)


@triton.jit(do_not_specialize=["tokens", "experts", "count", "flags"])
def route_report(bad, changed, offsets, first, report, tokens, experts, count, flags, BLOCK: tl.constexpr):
    """report: GpuRoutingReport of bad and changed [T], offsets [I + 1] and, with flag LAYOUT, first [E + 1], as 12
    int32 words. Grid: (1,). BLOCK >= I."""
    none = tokens * 1024
    first_bad = tl.full((BLOCK,), none, tl.int32)
    changes = tl.zeros((BLOCK,), tl.int32)
    for begin in range(0, tokens, BLOCK):
        token = begin + tl.arange(0, BLOCK)
        there = token < tokens
        code = tl.load(bad + token, mask=there, other=-1)
        first_bad = tl.minimum(first_bad, tl.where(code >= 0, token * 1024 + code, none))
        changes += tl.load(changed + token, mask=there, other=0).to(tl.int32)
    i = tl.arange(0, BLOCK)
    load = tl.load(offsets + i + 1, mask=i < count, other=0) - tl.load(offsets + i, mask=i < count, other=0)
    begin = i
    end = i + 1
    if (flags & LAYOUT) != 0:
        begin = tl.load(first + i, mask=i < experts, other=0)
        end = tl.load(first + i + 1, mask=i < experts, other=0)
    users = tl.load(offsets + end, mask=i < experts, other=0) - tl.load(offsets + begin, mask=i < experts, other=0)
    worst = tl.min(first_bad, 0)
    word = tl.arange(0, 16)
    value = tl.where(word == 0, tl.where(worst < none, worst // 1024, -1), 0)
    value = tl.where(word == 1, tl.where(worst < none, worst % 1024 - 1, -1), value)
    value = tl.where(word == 2, tl.sum(changes, 0), value)
    value = tl.where(word == 3, tl.sum((users > 0).to(tl.int32), 0), value)
    value = tl.where(word == 4, tl.sum((load > 0).to(tl.int32), 0), value)
    tl.store(report + word, value, mask=word < 12)
