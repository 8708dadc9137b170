"""Experts in the memory layout of the kernels (src/kernels/cuda/decode_experts.h), and tables of them."""

import dataclasses
import math
import struct
from typing import NamedTuple

import torch

from . import _checks

FORMS = {"bf16": 0, "int8": 1, "int4": 2}
WORDS = 9  # int64 of a struct DeviceExpert
MOST_INSTANCES = 1024


class Weight(NamedTuple):
    """A matrix of an expert. uint8 tensors, contiguous, aligned to 16 bytes.

    bf16: `data` has rows 0 to 7 of each tile of 16 rows, `lo` rows 8 to 15: [tiles, groups of 32 columns, 512].
    int8, int4: the planes hi and lo [row blocks, column blocks, 512] and scales [row blocks, column blocks, 32] of
    include/thermoe/nested_view.h; int4 needs no lo.
    """

    data: torch.Tensor
    lo: torch.Tensor | None = None
    scales: torch.Tensor | None = None
    base: float = 1.0
    plane_ratio: float = 1.0


class Expert(NamedTuple):
    """out = down(silu(gate(x)) * up(x)). form: "bf16", "int8" or "int4". gate_up has gate and up of a unit 8 rows
    apart, as include/thermoe/quantized_expert.h says."""

    form: str
    gate_up: Weight
    down: Weight


@dataclasses.dataclass(frozen=True)
class ExpertTable:
    """Instances of a layer's experts on one device: `words` int64 [I, 9] is an array of struct DeviceExpert. Keeps the
    tensors alive that it points to."""

    words: torch.Tensor
    forms: frozenset[str]
    hidden: int
    inter: int
    experts: tuple[Expert, ...]

    @property
    def instances(self) -> int:
        return self.words.shape[0]


def to_fragment_order(x: torch.Tensor) -> torch.Tensor:
    """x [..., n], n a multiple of 32: each 32 values as a thread of m16n8k16 reads them, 2t, 2t + 1, 2t + 8, 2t + 9,
    2t + 16, 2t + 17, 2t + 24, 2t + 25 for t = 0 .. 3."""
    _checks.multiple_of_32(x.shape[-1], "the last dimension of x")
    groups = x.reshape(*x.shape[:-1], -1, 4, 4, 2)  # column = 8 eighth + 2 t + odd
    return groups.transpose(-3, -2).reshape(x.shape).contiguous()


def _blocks(rows: torch.Tensor) -> torch.Tensor:
    """Rows [tiles, 8, columns] bf16 to uint8 [tiles, groups, 512]: vectors of 16 bytes, v of row g at v ^ g / 2."""
    tiles, _, columns = rows.shape
    vectors = to_fragment_order(rows).reshape(tiles, 8, columns // 32, 4, 8).permute(0, 2, 1, 3, 4)
    g = torch.arange(8, device=rows.device)[:, None]
    v = torch.arange(4, device=rows.device)[None, :]
    swizzled = vectors[:, :, g, v ^ (g // 2)]
    return swizzled.contiguous().view(torch.uint8).reshape(tiles, columns // 32, 512)


def bf16_expert(gate: torch.Tensor, up: torch.Tensor, down: torch.Tensor) -> Expert:
    """Packs gate, up [inter, hidden] and down [hidden, inter], bf16, contiguous, on one device. No value changes."""
    _checks.tensor(gate, "gate", [torch.bfloat16], (None, None))
    inter, hidden = gate.shape
    _checks.multiple_of_32(hidden, "hidden")
    _checks.multiple_of_32(inter, "inter")
    _checks.tensor(up, "up", [torch.bfloat16], (inter, hidden), gate.device)
    _checks.tensor(down, "down", [torch.bfloat16], (hidden, inter), gate.device)
    halves = down.reshape(hidden // 16, 2, 8, inter)
    return Expert(
        "bf16",
        Weight(_blocks(gate.reshape(-1, 8, hidden)), _blocks(up.reshape(-1, 8, hidden))),
        Weight(_blocks(halves[:, 0]), _blocks(halves[:, 1])),
    )


def nested_expert(form: str, gate_up: Weight, down: Weight) -> Expert:
    """An expert over nested planes. form: "int8" (both planes) or "int4" (hi)."""
    if form not in ("int8", "int4"):
        raise ValueError(f'form is "{form}": nested planes are "int8" or "int4"')
    return Expert(form, gate_up, down)


def _check_weight(weight: Weight, form: str, rows: int, columns: int, name: str, device: torch.device) -> None:
    planes = [("data", weight.data, 512), ("lo", weight.lo, 512), ("scales", weight.scales, 32)]
    needed = {"bf16": 2, "int8": 3, "int4": 3}[form]
    for i, (part, value, size) in enumerate(planes[:needed]):
        if form == "int4" and part == "lo" and value is None:
            continue
        tall = rows // 16 if form == "bf16" else -(-rows // 32)
        _checks.tensor(value, f"{name}.{part}", [torch.uint8], (tall, columns // 32, size), device)
        if value.data_ptr() % 16 != 0:
            raise ValueError(f"{name}.{part} has to be aligned to 16 bytes")
    if form != "bf16":
        if not (weight.base > 0 and math.isfinite(weight.base)):
            raise ValueError(f"{name}.base is {weight.base}: it has to be positive and finite")
        if not 1 <= weight.plane_ratio <= 16:
            raise ValueError(f"{name}.plane_ratio is {weight.plane_ratio}: it has to be 1 to 16")


def _weight_words(weight: Weight) -> list[int]:
    address = [0 if t is None else t.data_ptr() for t in weight[:3]]
    return [*address, struct.unpack("<q", struct.pack("<ff", weight.base, weight.plane_ratio))[0]]


def expert_table(experts: list[Expert], hidden: int, inter: int) -> ExpertTable:
    """The table of instances 0 .. I - 1. Every tensor on one device. ValueError where one has another shape than
    hidden and inter (multiples of 32) ask for."""
    _checks.within(len(experts), "the number of experts", 1, MOST_INSTANCES)
    _checks.multiple_of_32(hidden, "hidden")
    _checks.multiple_of_32(inter, "inter")
    _checks.within(hidden * inter, "hidden * inter", 1, 2**30 - 1)
    rows = []
    device = experts[0].gate_up.data.device
    for i, expert in enumerate(experts):
        if expert.form not in FORMS:
            raise ValueError(f'expert {i} has form "{expert.form}": known are {", ".join(FORMS)}')
        _check_weight(expert.gate_up, expert.form, 2 * inter, hidden, f"expert {i}: gate_up", device)
        _check_weight(expert.down, expert.form, hidden, inter, f"expert {i}: down", device)
        rows.append([FORMS[expert.form], *_weight_words(expert.gate_up), *_weight_words(expert.down)])
    words = torch.tensor(rows, dtype=torch.int64, device=device)
    return ExpertTable(words, frozenset(e.form for e in experts), hidden, inter, tuple(experts))
