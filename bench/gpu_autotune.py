#!/usr/bin/env python3
"""The cost model's choice of Triton's block size against triton.autotune: what it saves at the first call of a shape, and
what it loses afterwards.

For each shape, precision and number of tokens: the time of a layer's grouped experts at every block size (CUDA graphs,
cold L2: launches take other experts or other copies of the tokens' choices), which of them BlockCosts chooses from a
profile of `thermoe calibrate --device cuda --all-kernels`, which the rule without a profile, which triton.autotune; and
for some points the first call, with nothing compiled before, by each way. Weights and activations are random.

TRITON_INTERPRET=1 bench/gpu_autotune.py --check needs no GPU: tiny shapes, that all ways compute the same.
"""

import argparse
import json
import pathlib
import statistics
import tempfile
import time

import numpy
import torch
import triton

from gpu_peers import SHAPES, Shape, gpu_state, graph_of, replay_us
from thermoe import triton as tt
from thermoe.triton import grouped
from thermoe.triton.kernels import experts as kernels
from thermoe.triton.kernels import specialisations

TOKENS = [1, 4, 16, 64, 256, 1024, 4096]
FIRST_CALLS = [16, 1024]
FORMS = ("bf16", "int8", "int4")
SAMPLES = 25


class Layer:
    """A layer's experts in one precision, random, on a device."""

    def __init__(self, shape, form, device):
        self.shape, self.form, self.device = shape, form, device
        self.generator = torch.Generator(device).manual_seed(1)
        self.table = tt.expert_table([self._expert() for _ in range(shape.experts)], shape.hidden, shape.intermediate)

    def _expert(self):
        inter, hidden = self.shape.intermediate, self.shape.hidden
        if self.form == "bf16":
            def normal(rows, columns):
                made = torch.randn(rows, columns, generator=self.generator, device=self.device)
                return (made / columns**0.5).bfloat16()
            return tt.bf16_expert(normal(inter, hidden), normal(inter, hidden), normal(hidden, inter))
        return tt.nested_expert(self.form, self._planes(2 * inter, hidden), self._planes(hidden, inter))

    def _planes(self, rows, columns):
        def some(size, low, high):
            return torch.randint(low, high, (-(-rows // 32), columns // 32, size), generator=self.generator,
                                 device=self.device, dtype=torch.uint8)
        lo = some(512, 0, 256) if self.form == "int8" else None
        return tt.Weight(some(512, 0, 256), lo, some(32, 0x20, 0x60), 0.005 * columns**-0.5, 12.0)

    def plans(self, tokens, count):
        """So many, whose experts differ."""
        random, made = numpy.random.default_rng(1), []
        for _ in range(count):
            scores = random.standard_normal((tokens, self.shape.experts))
            ids = numpy.argsort(-scores, axis=1)[:, :self.shape.top_k].astype(numpy.int32)
            flat = ids.reshape(-1)
            order = numpy.argsort(flat, kind="stable").astype(numpy.int32)
            offsets = numpy.searchsorted(flat[order], numpy.arange(self.shape.experts + 1)).astype(numpy.int32)
            arrays = (ids, numpy.full(ids.shape, 1 / self.shape.top_k, numpy.float32), offsets, order)
            instances, weights, offsets, packed = (torch.from_numpy(a).to(self.device) for a in arrays)
            changed = torch.zeros(tokens, dtype=torch.uint8, device=self.device)
            made.append(tt.Plan(instances, instances, weights, changed, offsets, packed))
        return made

    def inputs(self, tokens):
        x = torch.randn(tokens, self.shape.hidden, generator=self.generator, device=self.device).bfloat16()
        return tt.to_fragment_order(x)

    def tile(self, block_m):
        target = grouped._target(torch.device(self.device))
        return specialisations.expert_shape(grouped.FORMS[self.form], block_m, target)

    def blocks(self):
        """Tiles by the smallest block size that takes them."""
        shapes = {}
        for block_m in specialisations.BLOCKS_M:
            shapes.setdefault(self.tile(block_m), block_m)
        return {block_m: shape for shape, block_m in shapes.items()}


class Autotuned:
    """The same two products through triton.autotune, which times every tile at the first call of a key."""

    def __init__(self, layer):
        self.layer = layer
        configs = [triton.Config({"BLOCK_M": s.block_m, "UNITS": s.units, "COLUMNS": s.columns}, num_warps=s.num_warps,
                                 num_stages=s.num_stages) for s in layer.blocks().values()]
        key = ["pairs", "hidden", "inter", "instances"]
        self.gate_up = triton.autotune(configs=configs, key=key)(kernels.gate_up)
        self.down = triton.autotune(configs=configs, key=key)(kernels.down)

    def __call__(self, x, plan):
        table, tokens = self.layer.table, x.shape[0]
        k = plan.instances.shape[1]
        pairs, count = tokens * k, table.instances
        inner = torch.empty((pairs, table.inter), dtype=torch.bfloat16, device=x.device)
        part = torch.empty((pairs, table.hidden), dtype=torch.bfloat16, device=x.device)
        out = torch.empty_like(x)
        constants = {"FORM": grouped.FORMS[self.layer.form], "I_BOUND": specialisations.I_BOUND}

        def grid(units):
            return lambda meta: (kernels.grid_programs(pairs, count, units, meta["BLOCK_M"], meta["UNITS"]),)
        self.gate_up[grid(table.inter)](table.words, x, plan.offsets, plan.packed, inner, pairs, k, table.hidden,
                                        table.inter, count, **constants)
        self.down[grid(table.hidden // 2)](table.words, inner, plan.offsets, plan.packed, part, pairs, table.hidden,
                                           table.inter, count, **constants)
        columns = specialisations.COMBINE_COLUMNS
        kernels.combine[(tokens, triton.cdiv(table.hidden, columns))](part, plan.instances, plan.weights, out, k,
                                                                      table.hidden, COLUMNS=columns, num_warps=4)
        return out

    def chosen(self):
        return {"gate_up": self.gate_up.best_config.kwargs["BLOCK_M"], "down": self.down.best_config.kwargs["BLOCK_M"]}


def first_call_ms(call):
    """With nothing compiled: Triton's caches on disk and in memory are new."""
    with tempfile.TemporaryDirectory() as folder:
        before = triton.knobs.cache.dir
        triton.knobs.cache.dir = folder
        for kernel in (kernels.gate_up, kernels.down, kernels.combine):
            kernel.device_caches.clear()
        torch.cuda.synchronize()
        start = time.perf_counter()
        call()
        torch.cuda.synchronize()
        elapsed = time.perf_counter() - start
        triton.knobs.cache.dir = before
    return elapsed * 1e3


def layer_us(calls):
    return statistics.median(replay_us(graph_of(calls), SAMPLES)) / len(calls)


def measure(layer, shape_name, tokens, costs, rows):
    plans, x, blocks = layer.plans(tokens, 8), layer.inputs(tokens), layer.blocks()
    distinct = len(plans[0].instances.unique())
    if distinct >= layer.shape.experts // 2:
        plans = plans[:2]
    by_block = {}
    for block_m in blocks:
        by_block[block_m] = layer_us([lambda p=p, b=block_m: tt.grouped_experts(layer.table, x, p, block_m=b)
                                      for p in plans])
    tuned = Autotuned(layer)
    tuned(x, plans[0])
    row = {"shape": shape_name, "dtype": layer.form, "tokens": tokens, "experts_read": distinct,
           "us_by_block": by_block, "autotune_us": layer_us([lambda p=p: tuned(x, p) for p in plans]),
           "autotune_chose": tuned.chosen(), "rule_chose": tt.choose_block_m(tokens * layer.shape.top_k,
                                                                              layer.shape.experts)}
    best = min(by_block.values())
    choices = {"rule": row["rule_chose"]}
    if costs is not None:
        choices["cost"] = row["cost_chose"] = costs.choose(tokens, distinct)
    for name, block_m in choices.items():
        same = next(b for b, tile in blocks.items() if tile == layer.tile(block_m))
        row[f"{name}_loss_frac"] = by_block[same] / best - 1
    row["autotune_loss_frac"] = row["autotune_us"] / best - 1
    if tokens in FIRST_CALLS:
        chosen = row.get("cost_chose", row["rule_chose"])
        row["first_call_ms"] = first_call_ms(lambda: tt.grouped_experts(layer.table, x, plans[0], block_m=chosen))
        row["first_call_autotune_ms"] = first_call_ms(lambda: Autotuned(layer)(x, plans[0]))
    rows.append(row)
    print(f"{shape_name:15} {layer.form:5}{tokens:6}  " + "  ".join(f"{b}: {us:.1f}" for b, us in by_block.items()) +
          f"  autotune {row['autotune_us']:.1f}  rule {row['rule_chose']}  cost {row.get('cost_chose', '-')}" +
          (f"  first call {row['first_call_ms']:.0f}, {row['first_call_autotune_ms']:.0f} ms"
           if "first_call_ms" in row else ""), flush=True)


def check():
    """All block sizes give one result; in the interpreter."""
    for form in FORMS:
        layer = Layer(Shape(6, 2, 64, 64), form, "cpu")
        plan, x = layer.plans(9, 1)[0], layer.inputs(9)
        outs = [tt.grouped_experts(layer.table, x, plan, block_m=block_m).float() for block_m in layer.blocks()]
        for out in outs[1:]:
            error = ((out - outs[0]).norm() / outs[0].norm()).item()
            if not error < 0.01 or not outs[0].isfinite().all():
                raise SystemExit(f"{form}: block sizes differ by {error}")
        print(f"{form}: {len(outs)} tiles agree")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--profile", help="of thermoe calibrate --device cuda --all-kernels; without it the rule alone")
    parser.add_argument("--json", type=pathlib.Path, help="file for the results")
    parser.add_argument("--shapes", default="qwen3-30b-a3b,olmoe")
    parser.add_argument("--commit", default="")
    parser.add_argument("--check", action="store_true")
    arguments = parser.parse_args()
    if arguments.check:
        return check()
    if not torch.cuda.is_available():
        raise SystemExit("needs a GPU; without one: TRITON_INTERPRET=1 bench/gpu_autotune.py --check")
    rows = []
    for shape_name in arguments.shapes.split(","):
        shape = SHAPES[shape_name]
        for form in FORMS:
            layer, costs = Layer(shape, form, "cuda"), None
            if arguments.profile:
                costs = tt.BlockCosts(arguments.profile, hidden_size=shape.hidden, dtype=form, top_k=shape.top_k,
                                      expert_inter_size=shape.intermediate, experts=shape.experts)
            for tokens in TOKENS:
                measure(layer, shape_name, tokens, costs, rows)
            del layer
            torch.cuda.empty_cache()
    result = {"device": torch.cuda.get_device_name(), "gpu_state": gpu_state(), "triton": triton.__version__,
              "commit": arguments.commit, "rows": rows}
    if arguments.json:
        arguments.json.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
