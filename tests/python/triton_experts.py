"""Random experts for the tests of the Triton kernels, their float64 reference, and readers of packed weights that share
nothing with what packs them."""

import dataclasses

import numpy as np
import torch
from nested_planes import BLOCK, unpack_plane, unpack_scales
from thermoe import triton as tt
from triton.runtime import interpreter

# Every sum of integers is made twice to find overflows: 2.5 times as long. The cases ran with it, too.
object.__setattr__(interpreter.interpreter_builder.options, "sanitize_overflow", False)

RATIO = 12.0


@dataclasses.dataclass(frozen=True)
class Case:
    name: str
    tokens: int
    k: int
    hidden: int
    inter: int
    forms: tuple[str, ...]  # of the instances
    hot: int = 0  # tokens that all use instance 0
    holes: bool = False  # some slots unused
    block_m: int | None = None


def cycle(count, *forms):
    return tuple(forms[i % len(forms)] for i in range(count))


def as_bf16(values):
    """float64 [..] rounded to bf16 by way of f32, as float64."""
    return torch.from_numpy(np.asarray(values, np.float32)).bfloat16().double().numpy()


def random_plane_weight(random, rows, columns, base):
    """Random bytes are random planes; scales between 1/2 and 8 of both signs."""
    shape = (-(-rows // BLOCK), columns // BLOCK)
    planes = [random.integers(0, 256, (*shape, 512), np.uint8) for _ in range(2)]
    codes = random.integers(0x20, 0x60, (*shape, 32)) | random.integers(0, 2, (*shape, 32)) * 128
    codes = codes.astype(np.uint8)
    return tt.Weight(*(torch.from_numpy(a) for a in (*planes, codes)), base, RATIO)


def read_planes(weight, both):
    """The matrix that nested planes stand for: whole numbers, and scales without base, float32 [rows, columns]."""
    whole = weight.plane_ratio * unpack_plane(weight.data.numpy()).astype(np.float32)
    if both:
        whole = whole + unpack_plane(weight.lo.numpy())
    return whole, unpack_scales(weight.scales.numpy()).repeat(BLOCK, axis=1)


def read_blocks(weight, rows, columns):
    """bf16 blocks [tiles, groups, 512], as decode_experts.h and decode_tile.cuh in src/kernels/cuda have them. rows: of
    both halves together, tile by tile."""
    out = np.empty((rows, columns), np.float64)
    halves = [t.view(torch.bfloat16).double().numpy() for t in (weight.data, weight.lo)]
    for row in range(16):
        g = row % 8
        for column in range(32):
            tile, half, t, odd = column // 16, column // 8 % 2, column % 8 // 2, column % 2
            lane = 4 * g + t
            at = (lane ^ (lane >> 3)) * 8 + 4 * tile + 2 * half + odd
            out[row::16, column::32] = halves[row // 8][:, :, at]
    return out


def split_sides(joined):
    """Rows of gate_up, gate and up of 8 units in turn: gate, up."""
    sides = joined.reshape(-1, 2, 8, joined.shape[1])
    return sides[:, 0].reshape(-1, joined.shape[1]), sides[:, 1].reshape(-1, joined.shape[1])


def random_expert(random, form, hidden, inter):
    """(expert, its gate, up and down in float64)."""
    if form == "bf16":
        sizes = ((inter, hidden), (inter, hidden), (hidden, inter))
        weights = [torch.from_numpy(random.normal(0, s[1] ** -0.5, s)).bfloat16() for s in sizes]
        return tt.bf16_expert(*weights), tuple(w.double().numpy() for w in weights)
    gate_up = random_plane_weight(random, 2 * inter, hidden, 0.005 * hidden**-0.5)
    down = random_plane_weight(random, hidden, inter, 0.005 * inter**-0.5)
    dense = []
    for weight in (gate_up, down):
        whole, scales = read_planes(weight, form == "int8")
        dense.append(whole.astype(np.float64) * scales * weight.base)
    if form == "int4":
        gate_up = gate_up._replace(lo=None)
    return tt.nested_expert(form, gate_up, down), (*split_sides(dense[0]), dense[1])


def host_pack(instances, count):
    """offsets and packed as thermoe::pack has them."""
    flat = instances.reshape(-1)
    order = np.argsort(flat, kind="stable")
    offsets = np.searchsorted(flat[order], np.arange(count + 1))
    return (offsets - offsets[0]).astype(np.int32), order[offsets[0] :].astype(np.int32)


def random_plan(random, case):
    """A plan whose unused part of `packed` is poison."""
    count = len(case.forms)
    instances = np.empty((case.tokens, case.k), np.int32)
    weights = random.uniform(0.05, 1, instances.shape).astype(np.float32)
    for t in range(case.tokens):
        row = random.permutation(count)
        if t < case.hot:
            row[np.flatnonzero(row == 0)[0]], row[0] = row[0], 0
        instances[t] = row[: case.k]
        for s in range(1, case.k):
            if case.holes and s >= case.k - t % case.k:
                instances[t, s], weights[t, s] = -1, 0
    offsets, used = host_pack(instances, count)
    packed = np.full(instances.size, 2**30, np.int32)
    packed[: used.size] = used
    tensors = [torch.from_numpy(a) for a in (instances, weights, offsets, packed)]
    changed = torch.zeros(case.tokens, dtype=torch.uint8)
    return tt.Plan(tensors[0], tensors[0], tensors[1], changed, tensors[2], tensors[3])


def reference(x, plan, dense):
    """float64 [T, hidden]; inner rounded to bf16. dense: gate, up, down of each instance."""
    instances, weights = plan.instances.numpy(), plan.weights.double().numpy()
    out = np.zeros(x.shape)
    for t in range(x.shape[0]):
        for s in range(instances.shape[1]):
            if instances[t, s] < 0:
                continue
            gate, up, down = dense[instances[t, s]]
            g = gate @ x[t]
            out[t] += weights[t, s] * (down @ as_bf16(g / (1 + np.exp(-g)) * (up @ x[t])))
    return out


def relative_error(got, want):
    got = got.double().numpy()
    return float(np.linalg.norm(got - want) / np.linalg.norm(want))  # NaN where an output is none
