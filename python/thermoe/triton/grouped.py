"""Grouped experts and their unpacking on torch tensors."""

import torch
import triton

from . import _checks
from .kernels import experts as kernels
from .kernels import specialisations, unpack
from .planning import Plan
from .tables import FORMS, WORDS, Expert, ExpertTable, Weight


def choose_block_m(pairs: int, instances: int) -> int:
    """Pairs a program: by the pairs an instance has on average, so that a tile is neither mostly empty nor reads its
    weights more often than it must."""
    _checks.within(pairs, "pairs", 1, 2**31 - 1)
    mean = pairs / instances
    return 16 if mean <= 24 else 64 if mean <= 96 else 128


def _target(device: torch.device) -> int:
    if device.type != "cuda":
        return 90
    major, minor = torch.cuda.get_device_capability(device)
    return 90 if major >= 9 else 80


def _launch(kernel, arguments: tuple, form: str, block_m: int, units: int, plan: Plan, instances: int, device) -> None:
    shape = specialisations.expert_shape(FORMS[form], block_m, _target(device))
    pairs = plan.instances.numel()
    grid = (kernels.grid_programs(pairs, instances, units, shape.block_m, shape.units),)
    kernel[grid](
        *arguments,
        FORM=FORMS[form],
        I_BOUND=specialisations.I_BOUND,
        BLOCK_M=shape.block_m,
        UNITS=shape.units,
        COLUMNS=shape.columns,
        num_warps=shape.num_warps,
        num_stages=shape.num_stages,
    )


def _check_plan(plan: Plan, tokens: int, instances: int, device: torch.device) -> None:
    _checks.tensor(plan.instances, "plan.instances", [torch.int32], (tokens, None), device)
    k = plan.instances.shape[1]
    _checks.within(k, "k", 1, 16)
    _checks.tensor(plan.weights, "plan.weights", [torch.float32], (tokens, k), device)
    _checks.tensor(plan.offsets, "plan.offsets", [torch.int32], (instances + 1,), device)
    _checks.tensor(plan.packed, "plan.packed", [torch.int32], (tokens * k,), device)


def grouped_experts(table: ExpertTable, x: torch.Tensor, plan: Plan, *, block_m: int | None = None,
                    out: torch.Tensor | None = None) -> torch.Tensor:
    """out [T, hidden] bf16: of each token the sum over used slots, in their order, of weight * expert(x), in f32.

    x [T, hidden] bf16 in fragment order (to_fragment_order). block_m: 16, 64 or 128 pairs a program; None: by
    choose_block_m. Forms may be mixed: a launch each. Deterministic. ValueError names what has a wrong shape, type or
    device. A plan that a kernel made is not read here: its numbers have to be right.
    """
    device = table.words.device
    _checks.tensor(x, "x", [torch.bfloat16], (None, table.hidden), device)
    tokens = x.shape[0]
    _checks.within(tokens, "the number of tokens", 1, (2**31 - 1) // 16)
    _check_plan(plan, tokens, table.instances, device)
    if out is None:
        out = torch.empty_like(x)
    _checks.tensor(out, "out", [torch.bfloat16], (tokens, table.hidden), device)
    k = plan.instances.shape[1]
    pairs = tokens * k
    if block_m is None:
        block_m = choose_block_m(pairs, table.instances)
    if block_m not in specialisations.BLOCKS_M:
        raise ValueError(f"block_m is {block_m}: it has to be one of {specialisations.BLOCKS_M}")
    inner = torch.empty((pairs, table.inter), dtype=torch.bfloat16, device=device)
    part = torch.empty((pairs, table.hidden), dtype=torch.bfloat16, device=device)
    for form in sorted(table.forms):
        arguments = (table.words, x, plan.offsets, plan.packed, inner, pairs, k, table.hidden, table.inter,
                     table.instances)
        _launch(kernels.gate_up, arguments, form, block_m, table.inter, plan, table.instances, device)
    for form in sorted(table.forms):
        arguments = (table.words, inner, plan.offsets, plan.packed, part, pairs, table.hidden, table.inter,
                     table.instances)
        _launch(kernels.down, arguments, form, block_m, table.hidden // 2, plan, table.instances, device)
    columns = specialisations.COMBINE_COLUMNS
    grid = (tokens, triton.cdiv(table.hidden, columns))
    kernels.combine[grid](part, plan.instances, plan.weights, out, k, table.hidden, COLUMNS=columns, num_warps=4)
    return out


def dequantize_and_unpack(table: ExpertTable, offsets: torch.Tensor) -> ExpertTable:
    """The table with nested experts that have tokens as bf16 of the same values, rounded; others as they are. offsets
    [I + 1] int32, of the plan. What a nested expert without tokens points to is not initialised."""
    device = table.words.device
    _checks.tensor(offsets, "offsets", [torch.int32], (table.instances + 1,), device)
    values = table.hidden * table.inter
    scratch = torch.empty(table.instances * 6 * values, dtype=torch.uint8, device=device)
    words = torch.empty((table.instances, WORDS), dtype=torch.int64, device=device)
    grid = (specialisations.UNPACK_PROGRAMS, table.instances)
    unpack.dequantize_and_unpack[grid](table.words, offsets, words, scratch, table.hidden, table.inter,
                                       WORDS=specialisations.UNPACK_WORDS, num_warps=4)
    experts = []
    for i, expert in enumerate(table.experts):
        if expert.form == "bf16":
            experts.append(expert)
            continue
        whole = scratch[i * 6 * values : (i + 1) * 6 * values]
        up, lower_up, down, lower_down = whole.split([2 * values, 2 * values, values, values])
        wide, tall = table.hidden // 32, table.inter // 32
        experts.append(Expert(
            "bf16",
            Weight(up.view(-1, wide, 512), lower_up.view(-1, wide, 512)),
            Weight(down.view(-1, tall, 512), lower_down.view(-1, tall, 512)),
        ))
    return ExpertTable(words, frozenset(["bf16"]), table.hidden, table.inter, tuple(experts))
