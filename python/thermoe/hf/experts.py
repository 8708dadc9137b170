"""Experts in int8 and int4 on the CPU, behind transformers' experts interface as "thermoe"."""

import dataclasses
import time

import torch
from transformers.integrations.moe import ALL_EXPERTS_FUNCTIONS

from .. import _core
from ..errors import InvalidArgument
from .routing import ALIVE

NAME = "thermoe"
LISTS = (("int8",), ("int4",), ("int8", "int4"))


@dataclasses.dataclass
class Quantized:
    """All layers' experts, quantised beside the model's own, which stay for detach."""

    variants: tuple
    layers: list  # QuantizedExperts
    layouts: list  # of each layer; one variant is a layout of one instance of each expert
    seconds: float
    bytes: int
    read_frac: dict  # by variant, of an expert's bytes in bf16


def check_variants(variants, sites):
    """The list, canonical, or None for the model's own experts. Raises InvalidArgument for what can't run here."""
    listed = (variants,) if isinstance(variants, str) else tuple(variants or ("bf16",))
    if listed == ("bf16",):
        return None
    if listed not in LISTS:
        raise InvalidArgument(f"variants {listed}: can run here: ('bf16',), the model's own experts, or "
                              f"{', '.join(map(str, LISTS))} on the CPU")
    for site in sites:
        experts = site.experts
        plain = experts.has_gate and experts.is_concatenated and not experts.is_transposed
        gate = getattr(experts, "act_fn", None)
        silu = isinstance(gate, torch.nn.SiLU) or type(gate).__name__ == "SiLUActivation"
        if not plain or not silu or experts.has_bias or getattr(experts, "has_post_expert_norm", False):
            raise InvalidArgument(f"variants {listed}: {site.name} ({type(experts).__name__}) is no plain SwiGLU: its "
                                  "experts run as they are stored; leave variants out")
        if experts.gate_up_proj.device.type != "cpu":
            raise InvalidArgument(f"variants {listed}: {site.name} is on {experts.gate_up_proj.device}: quantised "
                                  "experts run on the CPU alone; leave variants out, or move the model there")
    return listed


@torch.no_grad()
def quantize(variants, sites):
    """Quantises a layer after the other; beside the result one layer in float32 is in memory."""
    start, layers, layouts, total, fracs = time.perf_counter(), [], [], 0, {}
    for site in sites:
        gate, up = site.experts.gate_up_proj.chunk(2, dim=1)
        down = site.experts.down_proj
        layer = _core.QuantizedExperts(*(w.float().contiguous() for w in (gate, up, down)),
                                       threads=torch.get_num_threads())
        layers.append(layer)
        stored = 2 * 3 * gate[0].numel()
        fracs = {name: layer.bytes[i] / stored for i, name in enumerate(("int8", "int4"))}
        # A layout's errors are of variants, not of experts: the mean over the layer's.
        errors = {name: min(0.999, float(layer.error_frac[i].mean())) for i, name in enumerate(("int8", "int4"))}
        layouts.append(_core.Layout(site.count, [(name, errors[name], fracs[name]) for name in variants]))
        total += site.count * layer.bytes[0]
    return Quantized(variants, layers, layouts, time.perf_counter() - start, total, {v: fracs[v] for v in variants})


def _run(quantized, number, x, ids, weights, int4):
    if int4 is None and quantized.variants == ("int4",):
        int4 = torch.ones(ids.shape, dtype=torch.uint8)
    given, wide = x.detach().float(), ids.shape
    out = torch.empty_like(given, memory_format=torch.contiguous_format)
    quantized.layers[number].forward(given, ids.to(torch.int32).contiguous(),
                                     weights.detach().float().reshape(wide).contiguous(), int4=int4, out=out)
    return out.to(x.dtype) if out.dtype != x.dtype else out


@torch.library.custom_op("thermoe::experts", mutates_args=())
def _experts(x: torch.Tensor, ids: torch.Tensor, weights: torch.Tensor, int4: torch.Tensor, number: int,
             key: int) -> torch.Tensor:
    attachment = ALIVE.get(key)
    if attachment is None:
        raise RuntimeError("this graph was compiled while thermoe was attached: compile the model anew")
    int4 = None if attachment.quantized.variants != ("int8", "int4") else int4
    return _run(attachment.quantized, number, x, ids, weights, int4)


@_experts.register_fake
def _(x, ids, weights, int4, number, key):
    return torch.empty_like(x, memory_format=torch.contiguous_format)


def experts_forward(self, hidden_states, top_k_index, top_k_weights):
    """What transformers calls for a layer's experts while a model is attached with quantised variants."""
    key, layer, quantized = self._thermoe
    if torch.compiler.is_compiling():
        return torch.ops.thermoe.experts(hidden_states, top_k_index, top_k_weights, layer.int4, layer.number, key)
    return _run(quantized, layer.number, hidden_states, top_k_index, top_k_weights, layer.int4)


ALL_EXPERTS_FUNCTIONS.register(NAME, experts_forward)
