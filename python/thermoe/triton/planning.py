"""Routing and packing on torch tensors."""

import dataclasses

import torch

from . import _checks
from .kernels import routing, specialisations

GATES = {"none": 0, "softmax": 1, "sigmoid": 2}
MOST_EXPERTS, MOST_INSTANCES, MOST_SLOTS, MOST_TOKENS = 512, 1024, 16, 2**21 - 1


@dataclasses.dataclass(frozen=True)
class Layout:
    """In which instances experts can be had: those of expert e are first[e] .. first[e + 1] - 1. Device tensors.

    kept_best [E] and kept_instance [I] float64: what the errors leave of the utility, of an expert's best instance and
    of each, in parts of the best; None: all. kept_even: kept_best is the same everywhere.
    """

    first: torch.Tensor  # [E + 1] int32
    expert: torch.Tensor  # [I] int32
    kept_best: torch.Tensor | None = None
    kept_instance: torch.Tensor | None = None
    kept_even: bool = True

    @property
    def count(self) -> int:
        return self.expert.shape[0]


@dataclasses.dataclass(frozen=True)
class Plan:
    """include/thermoe/routing_plan.h on the device: T tokens, k slots, I instances."""

    ids: torch.Tensor  # [T, k] int32 experts by falling score; unused slots -1
    instances: torch.Tensor  # [T, k] int32
    weights: torch.Tensor  # [T, k] float32
    changed: torch.Tensor  # [T] uint8: 1 where the experts are not the token's top-k
    offsets: torch.Tensor  # [I + 1] int32
    packed: torch.Tensor  # [T k] int32, the first offsets[I] used
    report: torch.Tensor | None = None  # [12] int32: struct GpuRoutingReport


def check_report(plan: Plan) -> None:
    """ValueError that names token and expert where the scores were bad. Waits for the device."""
    token, expert = plan.report[:2].tolist()
    if token < 0:
        return
    if expert < 0:
        raise ValueError(f"all scores of token {token} are zero: nothing says where it should go")
    raise ValueError(f"score of token {token}, expert {expert} is not finite or negative; look for damaged weights or "
                     "an overflow before the router")


def _optional(values: dict, device: torch.device) -> tuple[dict, int]:
    """Pointers, a placeholder where there is none, and the flags of those that are there.

    values: name to (tensor or None, dtype, size, flag)."""
    pointers, flags = {}, 0
    for name, (value, dtype, size, flag) in values.items():
        if value is None:
            value = torch.empty(1, dtype=dtype, device=device)
        else:
            _checks.tensor(value, name, [dtype], (size,), device)
            flags |= flag
        pointers[name] = value
    return pointers, flags


def _check_route(scores: torch.Tensor, k: int, gate: str, layout: Layout | None, utility_power: float) -> None:
    if not isinstance(scores, torch.Tensor) or scores.dim() != 2 or scores.stride(1) != 1:
        raise ValueError("scores have to be a tensor [T, E] with contiguous rows")
    _checks.tensor(scores[:1], "scores", [torch.float32, torch.bfloat16], (1, None))
    tokens, experts = scores.shape
    _checks.within(tokens, "the number of tokens", 1, MOST_TOKENS)
    _checks.within(experts, "the number of experts", 1, MOST_EXPERTS)
    if layout is not None:
        _checks.within(layout.count, "the number of instances", experts, MOST_INSTANCES)
    _checks.within(k, "k", 1, min(experts, MOST_SLOTS))
    if gate not in GATES:
        raise ValueError(f'gate is "{gate}": known are {", ".join(GATES)}')
    if utility_power not in (1.0, 1.5, 2.0):
        raise ValueError(f"utility_power is {utility_power}: it has to be 1, 1.5 or 2")


def route(scores: torch.Tensor, k: int, *, gate: str = "none", renormalize: bool = True,
          bias: torch.Tensor | None = None, layout: Layout | None = None, priced: bool = False,
          slope: torch.Tensor | None = None, marginal: torch.Tensor | None = None, utility_power: float = 2.0,
          utility_scale: torch.Tensor | None = None, check: bool = True) -> Plan:
    """Each token's k experts: its top-k, or (priced) the instances that are best at slope and marginal prices.

    scores [T, E] float32 or bfloat16, rows may be apart; gate: "none" (they are probabilities), "softmax" or "sigmoid".
    bias [E] float32 is added where experts are selected, not where they are weighed. renormalize: weights of an
    unmodified token sum to 1. slope, marginal [I] float32, in units of utility, for each token sent there;
    utility_power: 1, 1.5 or 2; utility_scale [E] float32. T < 2^21, E <= 512, I <= 1024, k <= min(E, 16).

    ValueError where shapes, types or devices are wrong and, with `check` (which waits for the device), where a score is
    NaN, infinite or (gate none) negative, or all of a token are zero.
    """
    _check_route(scores, k, gate, layout, utility_power)
    if not priced and any(t is not None for t in (slope, marginal)):
        raise ValueError("prices are read with priced=True only")
    tokens, experts = scores.shape
    device = scores.device
    count = experts if layout is None else layout.count
    first, expert, best, part = (None,) * 4 if layout is None else (
        layout.first, layout.expert, layout.kept_best, layout.kept_instance)
    pointers, flags = _optional({
        "bias": (bias, torch.float32, experts, routing.BIAS.value),
        "first": (first, torch.int32, experts + 1, routing.LAYOUT.value),
        "expert": (expert, torch.int32, count, routing.LAYOUT.value),
        "slope": (slope, torch.float32, count, routing.SLOPE.value),
        "marginal": (marginal, torch.float32, count, routing.MARGINAL.value),
        "scale": (utility_scale, torch.float32, experts, routing.SCALE.value),
        "kept_best": (best, torch.float64, experts, routing.KEPT_BEST.value),
        "kept_instance": (part, torch.float64, count, routing.KEPT_INSTANCE.value),
    }, device)
    flags |= routing.HALF.value * (scores.dtype == torch.bfloat16) | routing.RENORMALIZE.value * renormalize
    flags |= routing.KEPT_UNEVEN.value * (layout is not None and not layout.kept_even)

    def room(dtype: torch.dtype, *shape: int) -> torch.Tensor:
        return torch.empty(shape, dtype=dtype, device=device)

    ids, instances = room(torch.int32, tokens, k), room(torch.int32, tokens, k)
    weights, changed = room(torch.float32, tokens, k), room(torch.uint8, tokens)
    bad, report = room(torch.int32, tokens), room(torch.int32, 12)
    bound = specialisations.route_bound(count if priced else experts, priced)
    numbers = scores if scores.dtype == torch.float32 else scores.view(torch.int16)
    routing.route_tokens[(tokens,)](
        numbers, *pointers.values(), ids, instances, weights, changed, bad, scores.stride(0), experts, count, k,
        GATES[gate], int(2 * utility_power), flags, PRICED=priced, BOUND=bound,
        num_warps=specialisations.route_warps(bound), enable_fp_fusion=False)
    offsets, packed = pack_plan(instances, count)
    routing.route_report[(1,)](bad, changed, offsets, pointers["first"], report, tokens, experts, count, flags,
                               BLOCK=1024, num_warps=4)
    plan = Plan(ids, instances, weights, changed, offsets, packed, report)
    if check:
        check_report(plan)
    return plan


def pack_plan(instances: torch.Tensor, count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """(offsets [count + 1], packed [pairs]) int32 of instances [T, k] int32, unused slots -1: the pairs of each
    instance by rising number, the first offsets[count] of packed used."""
    _checks.tensor(instances, "instances", [torch.int32], (None, None))
    _checks.within(count, "the number of instances", 1, MOST_INSTANCES)
    pairs = instances.numel()
    _checks.within(pairs, "the number of pairs", 1, 2**31 - 1)
    offsets = torch.empty(count + 1, dtype=torch.int32, device=instances.device)
    packed = torch.empty(pairs, dtype=torch.int32, device=instances.device)
    routing.pack_plan[(count,)](instances, offsets, packed, pairs, count, BLOCK=specialisations.PACK_BLOCK, num_warps=4)
    return offsets, packed
