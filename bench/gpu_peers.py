#!/usr/bin/env python3
"""Times the best kernels of others for one MoE layer's experts (SwiGLU and the weighted sum), as peers of ours.

The peers, in bf16: vLLM's Triton fused_moe (its tuned configurations, and more of them tried here) and torch's
grouped_mm; quantised: the Triton kernels with int8 and int4 weights and, if bench/fetch_peers.sh got them, Marlin's.
The layer is timed from the plan's layout (what each peer's own routing step gives; route_us apart) to the outputs.

A sample is a CUDA graph of the same layer so many times (layers_per_graph) that their weights, a copy for each, exceed
five times the L2: as in a model, a layer's weights are never in the cache. Times are per layer. Outputs are first
compared with a float32 computation. Byte counts are the weights of the experts that the plan names, whatever a kernel
reads; rates stand beside the device's copy rate (bytes read plus written). In the JSON, "tried" begins with vLLM's own
choice. Needs PyTorch with CUDA, Triton and the folder that bench/fetch_peers.sh fills.

TRITON_INTERPRET=1 bench/gpu_peers.py --check needs no GPU: tiny shapes, the comparison only.
"""

import argparse
import ctypes
import dataclasses
import json
import math
import pathlib
import statistics
import subprocess
import sys
import time

import numpy
import torch
import triton

import gpu_peer_layers
import gpu_peer_vllm


@dataclasses.dataclass(frozen=True)
class Shape:
    experts: int
    top_k: int
    hidden: int
    intermediate: int


SHAPES = {"qwen3-30b-a3b": Shape(128, 8, 2048, 768), "olmoe": Shape(64, 8, 2048, 1024),
          "mixtral-8x7b": Shape(8, 2, 4096, 14336), "gpt-oss-120b": Shape(128, 4, 2880, 2880)}
TOKENS = {"qwen3-30b-a3b": [1, 4, 8, 16, 64, 256, 1024, 4096, 16384]}
OTHER_TOKENS = [1, 16, 256, 4096]
COLD_BYTES = 256 << 20  # five times the H100's L2
MAX_COPIES, MAX_COPIES_BYTES = 16, 36 << 30
UNFIT = (triton.runtime.errors.OutOfResources, triton.runtime.errors.PTXASError,
         triton.compiler.errors.CompilationError)
TOLERANCE = 0.02  # of the outputs' norm: bf16 products and sums give 0.003 to 0.006


class Plan:
    """Which experts each token goes to: ids int32 and weights float32, both [tokens, top_k]."""

    def __init__(self, name, shape_name, ids, weights, device):
        self.name, self.shape_name, self.shape = name, shape_name, SHAPES.get(shape_name)
        self.ids = torch.as_tensor(ids, dtype=torch.int32, device=device).contiguous()
        self.weights = torch.as_tensor(weights, dtype=torch.float32, device=device).contiguous()
        self.tokens, self.top_k = self.ids.shape
        self.slots = self.ids.numel()
        self.distinct_experts = self.ids.unique().numel()

    def check(self, shape):
        sorted_ids = self.ids.sort(1)[0]
        if self.ids.shape != self.weights.shape or self.ids.min() < 0 or self.ids.max() >= shape.experts:
            raise SystemExit(f"plan {self.name}: give ids in [0, {shape.experts}) and weights of one shape")
        if (sorted_ids[:, 1:] == sorted_ids[:, :-1]).any():
            raise SystemExit(f"plan {self.name}: a token names an expert twice")


def made_plan(routing, shape_name, shape, tokens, device):
    random = numpy.random.default_rng(1)
    logits = random.standard_normal((tokens, shape.experts))
    if routing == "balanced":
        ids = numpy.arange(tokens * shape.top_k).reshape(tokens, shape.top_k) % shape.experts
    else:
        ids = numpy.argsort(-logits, axis=1)[:, :shape.top_k]
    weights = numpy.exp(numpy.take_along_axis(logits, ids, 1))
    return Plan(routing, shape_name, ids, weights / weights.sum(1, keepdims=True), device)


def read_plans(path, shape_name, device):
    """.npz: arrays ids and weights. .json: an object of ids, weights, perhaps name and shape, or a list of them."""
    path = pathlib.Path(path)
    if path.suffix == ".npz":
        with numpy.load(path) as arrays:
            return [Plan(path.stem, shape_name, arrays["ids"].astype("int32"), arrays["weights"], device)]
    found = json.loads(path.read_text(encoding="utf-8"))
    return [Plan(plan.get("name", path.stem), plan.get("shape", shape_name), plan["ids"], plan["weights"], device)
            for plan in (found if isinstance(found, list) else [found])]


def make_weights(shape, device, generator):
    """Normal, such that outputs are of the order of 1."""
    sizes = [(shape.experts, 2 * shape.intermediate, shape.hidden), (shape.experts, shape.hidden, shape.intermediate)]
    factors = [1 / math.sqrt(shape.hidden), 3 / math.sqrt(shape.intermediate)]
    return [torch.randn(size, generator=generator, device=device, dtype=gpu_peer_layers.DTYPE).mul_(factor)
            for size, factor in zip(sizes, factors)]


def graph_of(calls):
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for call in calls[:1]:
            call()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for call in calls:
            call()
    return graph


def replay_us(graph, samples):
    """Durations of replays, none of which waits for the CPU."""
    events = [(torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)) for _ in range(samples)]
    graph.replay()
    torch.cuda._sleep(2_000_000)
    for begin, end in events:
        begin.record()
        graph.replay()
        end.record()
    torch.cuda.synchronize()
    return [begin.elapsed_time(end) * 1e3 for begin, end in events]


def relative_error(peer, plan, x, outs):
    """The largest of the outputs' errors against float32, over up to 64 tokens; NaN if any output isn't finite."""
    tokens = torch.linspace(0, plan.tokens - 1, min(plan.tokens, 64), device=x.device).long().unique()
    ids, weights, inputs = plan.ids[tokens], plan.weights[tokens], x[tokens].float()
    expected = torch.zeros_like(inputs)
    for index in ids.unique().tolist():
        gate_up, down = peer.expert(index)
        rows, slots = (ids == index).nonzero(as_tuple=True)
        gate, up = (inputs[rows] @ gate_up.T).chunk(2, 1)
        expected.index_add_(0, rows, weights[rows, slots, None] * ((torch.nn.functional.silu(gate) * up) @ down.T))
    worst = 0.0
    for out in outs:
        error = ((out[tokens].float() - expected).norm() / expected.norm()).item()
        worst = max(worst, error) if out.isfinite().all() else math.nan
    return worst


class Bench:
    def __init__(self, arguments, vllm):
        self.arguments, self.vllm = arguments, vllm
        self.device = "cpu" if arguments.check else "cuda"
        self.generator = torch.Generator(self.device).manual_seed(1)
        self.begin_s = time.monotonic()
        self.copy_bytes_per_s = None
        self.rows, self.notes = [], []

    def measure_copy_rate(self):
        source = torch.empty(2 << 30, device="cuda", dtype=torch.uint8).random_()
        target = torch.empty_like(source)
        graph = graph_of([lambda: target.copy_(source)])
        self.copy_bytes_per_s = 2 * source.numel() / (statistics.median(replay_us(graph, 30)) * 1e-6)

    def run_shape(self, shape_name, shape, plans):
        weights = make_weights(shape, self.device, self.generator)
        for kind in gpu_peer_layers.peers(self.vllm):
            if self.arguments.peers and not any(part in kind.name for part in self.arguments.peers.split(",")):
                continue
            peer = kind(shape, weights, self.vllm)
            try:
                self.run_peer(peer, shape_name, plans)
            except Exception as error:  # a shape that a peer doesn't take mustn't cost the others' results
                self.note(f"{peer.name} {shape_name}: {type(error).__name__}: {str(error)[:300]}")
            del peer
            if self.device == "cuda":
                torch.cuda.empty_cache()

    def note(self, text):
        self.notes.append(text)
        print(text, flush=True)

    def copies_for(self, peer, plan):
        moved = peer.expert_bytes() * plan.distinct_experts
        fit = MAX_COPIES_BYTES // (peer.expert_bytes() * peer.shape.experts)
        return max(2, min(math.ceil(COLD_BYTES / moved), MAX_COPIES, fit))

    def run_peer(self, peer, shape_name, plans):
        copies = [peer.weights]
        if not self.arguments.check:
            for _ in range(1, max(self.copies_for(peer, plan) for plan in plans)):
                copies.append([tensor.clone() for tensor in peer.weights])
        works = []
        for plan in plans:
            x = torch.randn(plan.tokens, peer.shape.hidden, generator=self.generator, device=self.device,
                            dtype=gpu_peer_layers.DTYPE)
            used = copies[:self.copies_for(peer, plan)]
            works.append((plan, x, [torch.empty_like(x) for _ in used], used))
        if not self.arguments.check and isinstance(peer, gpu_peer_layers.VllmTriton):
            self.vllm.compile([lambda work=work, config=config: self.layers(peer, work, config)[0][0]()
                               for work in works for config in peer.configs(work[0].tokens, work[0].top_k)])
        for work in works:
            if time.monotonic() - self.begin_s > self.arguments.budget_s:
                self.note(f"{peer.name} {shape_name} {work[0].tokens}: left out, no time left")
                continue
            row = {"peer": peer.name, "shape": shape_name, **dataclasses.asdict(peer.shape), "top_k": work[0].top_k,
                   "tokens": work[0].tokens, "routing": work[0].name}
            row |= self.check(peer, work) if self.arguments.check else self.measure(peer, work)
            row["ok"] = row["relative_error"] < TOLERANCE
            self.rows.append(row)
            print(f"{row['peer']:20} {shape_name:14} {row['tokens']:6} error {row['relative_error']:.4f}"
                  f" {row.get('median_us', 0):10.1f} us {row.get('layer_mj', 0):8.2f} mJ {row['config']}", flush=True)

    @staticmethod
    def layers(peer, work, config):
        """Calls of the layer, one for each copy, and the tensors between."""
        plan, x, outs, copies = work
        launch, between = peer.launcher(plan, config, peer.route(plan, config))
        return [lambda weights=weights, out=out: launch(weights, x, out) for weights, out in zip(copies, outs)], between

    def error(self, peer, work, between, run):
        """Of outputs for fresh inputs, everything that the layer writes poisoned before."""
        plan, x, outs, _ = work
        x.copy_(torch.randn(x.shape, generator=self.generator, device=self.device))
        for tensor in [*outs, *between]:
            tensor.fill_(math.nan)
        run()
        return relative_error(peer, plan, x, outs)

    def check(self, peer, work):
        errors = {}
        for config in peer.configs(work[0].tokens, work[0].top_k):
            calls, between = self.layers(peer, work, config)
            errors[str(config)] = self.error(peer, work, between, lambda: [call() for call in calls])
        worst = max(errors, key=lambda config: math.inf if math.isnan(errors[config]) else errors[config])
        return {"relative_error": errors[worst], "config": worst}

    def measure(self, peer, work):
        plan, _, _, copies = work
        times_us, best = [], None
        for config in peer.configs(plan.tokens, plan.top_k):
            try:
                calls, between = self.layers(peer, work, config)
                graph = graph_of(calls)
            except UNFIT as error:
                times_us.append({"config": config, "failed": type(error).__name__})
                continue
            time_us = statistics.median(replay_us(graph, 5)) / len(copies)
            times_us.append({"config": config, "time_us": time_us})
            if best is None or time_us < best[0]:
                best = (time_us, config, graph, between, calls)  # calls: they own what the graph reads
        if best is None:
            raise RuntimeError("no configuration runs")
        _, config, graph, between, _ = best
        error = self.error(peer, work, between, graph.replay)
        samples_us = sorted(sample / len(copies) for sample in replay_us(graph, self.arguments.samples))
        route_us = statistics.median(replay_us(graph_of([lambda: peer.route(plan, config)] * 4), 15)) / 4

        median_us = statistics.median(samples_us)
        sustained = {}
        if self.arguments.energy_s > 0:
            sustained = sustained_energy(graph, self.arguments.energy_s, len(copies))
        moved = plan.distinct_experts * peer.expert_bytes()
        flop = 6.0 * plan.slots * peer.shape.hidden * peer.shape.intermediate
        return {"median_us": median_us, "p10_us": samples_us[len(samples_us) // 10],
                "p90_us": samples_us[len(samples_us) * 9 // 10], "samples": len(samples_us),
                "layers_per_graph": len(copies), "route_us": route_us, "distinct_experts": plan.distinct_experts,
                "weight_bytes": moved, "bytes_per_s": moved / (median_us * 1e-6),
                "of_copy_rate_frac": moved / (median_us * 1e-6) / self.copy_bytes_per_s,
                "flop": flop, "flop_per_s": flop / (median_us * 1e-6), "relative_error": error, "config": config,
                **sustained, "tried": times_us}


def energy_mj():
    """The board's energy counter."""
    library = ctypes.CDLL("libnvidia-ml.so.1")
    handle, energy = ctypes.c_void_p(), ctypes.c_ulonglong()
    if library.nvmlInit_v2() or library.nvmlDeviceGetHandleByIndex_v2(0, ctypes.byref(handle)) or \
            library.nvmlDeviceGetTotalEnergyConsumption(handle, ctypes.byref(energy)):
        raise RuntimeError("NVML gives no energy")
    return energy.value


def sustained_energy(graph, seconds, layers):
    """Replays without a pause; time and energy a layer of the last two thirds, in which clocks have settled."""
    graph.replay()
    torch.cuda.synchronize()
    start = time.monotonic()
    counted, begin, begin_mj = 0, None, None
    while time.monotonic() - start < seconds:
        if begin is None and time.monotonic() - start > seconds / 3:
            begin, begin_mj = time.monotonic(), energy_mj()
        for _ in range(16):
            graph.replay()
        torch.cuda.synchronize()
        counted += 16 * layers if begin is not None else 0
    took, used_mj = time.monotonic() - begin, energy_mj() - begin_mj
    return {"sustained_us": took / counted * 1e6, "layer_mj": used_mj / counted, "power_w": used_mj * 1e-3 / took}


def gpu_state():
    """What nvidia-smi says of clocks and power."""
    fields = {"name": "name", "driver": "driver_version", "sm_clock_mhz": "clocks.sm", "memory_clock_mhz": "clocks.mem",
              "power_w": "power.draw", "power_limit_w": "power.limit", "temperature_c": "temperature.gpu"}
    try:
        line = subprocess.run(["nvidia-smi", "--id=0", "--query-gpu=" + ",".join(fields.values()),
                               "--format=csv,noheader,nounits"], check=True, capture_output=True, text=True).stdout
    except (OSError, subprocess.CalledProcessError):
        return None
    values = [value.strip() for value in line.splitlines()[0].split(",")]
    return {name: float(value) if name.split("_")[-1] in ("mhz", "w", "c") and value[0].isdigit() else value
            for name, value in zip(fields, values)}


def print_table(rows, copy_bytes_per_s):
    """A line for each shape and plan: the peers' times in us."""
    names = list(dict.fromkeys(row["peer"] for row in rows))
    print(f"\ncopy rate {copy_bytes_per_s / 1e12:.3f} TB/s; us a layer, then of the copy rate; bf16 best: TFLOP/s")
    short = [name.replace("vllm-", "").replace("torch-", "") for name in names]
    heads = " ".join(f"{name:>17}" for name in short)
    print(f"{'shape':14} {'T':>6} {'routing':>9} {'experts':>7} {heads}  TFLOP/s")
    points = {}
    for row in rows:
        points.setdefault((row["shape"], row["tokens"], row["routing"]), {})[row["peer"]] = row
    for (shape, tokens, routing), by_peer in points.items():
        any_row = next(iter(by_peer.values()))
        cells = [f"{row['median_us']:10.1f} ({row['of_copy_rate_frac']:.2f})" if row else "-"
                 for row in map(by_peer.get, names)]
        bf16 = [row["flop_per_s"] for name, row in by_peer.items() if name.endswith("bf16")]
        print(f"{shape:14} {tokens:6} {routing[:9]:>9} {any_row['distinct_experts']:7} " +
              " ".join(f"{cell:>17}" for cell in cells) + (f"  {max(bf16) / 1e12:7.1f}" if bf16 else ""))


def parse_arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--vllm", default=str(pathlib.Path(__file__).parent.parent / ".peers"),
                        help="folder that bench/fetch_peers.sh filled (.peers)")
    parser.add_argument("--quick", action="store_true", help="only T = 1, 16, 64, 4096 of Qwen3-30B-A3B's shape")
    parser.add_argument("--routing", choices=["balanced", "drawn"], default="balanced",
                        help="balanced: slot i of all goes to expert i mod E. drawn: the top k of normal logits")
    parser.add_argument("--plan", action="append", default=[], metavar="FILE",
                        help=".npz or .json of ids and weights [T, k], in place of the plans made here; repeatable")
    parser.add_argument("--shape", choices=SHAPES, help="only this shape; that of a plan which doesn't say")
    parser.add_argument("--tokens", help="only these token counts, as in 1,16")
    parser.add_argument("--peers", help="only peers with one of these in their names, as in bf16,marlin")
    parser.add_argument("--samples", type=int, default=40, help="timed replays (40)")
    parser.add_argument("--energy-s", type=float, default=0, help="replay so long for a layer's energy, too")
    parser.add_argument("--budget-s", type=float, default=170, help="then leave out what is left (170)")
    parser.add_argument("--check", action="store_true", help="tiny shapes, on the CPU under TRITON_INTERPRET=1")
    parser.add_argument("--json", metavar="FILE", help="write all results there")
    return parser.parse_args()


def planned(arguments, device):
    """The shapes' names and the plans of each."""
    if arguments.check:
        SHAPES.clear()
        SHAPES.update({"tiny": Shape(16, 4, 128, 64), "tiny-uneven": Shape(8, 2, 160, 96)})
        TOKENS.update({name: [1, 5] for name in SHAPES})
    plans = {}
    for path in arguments.plan:
        for plan in read_plans(path, arguments.shape or "qwen3-30b-a3b", device):
            if plan.shape is None:
                raise SystemExit(f"{path}: shape must be one of {', '.join(SHAPES)}")
            plan.check(plan.shape)
            plans.setdefault(plan.shape_name, []).append(plan)
    if plans:
        return plans
    names = [arguments.shape] if arguments.shape else ["qwen3-30b-a3b"] if arguments.quick else SHAPES
    for name in names:
        counts = TOKENS.get(name, OTHER_TOKENS)
        if arguments.tokens:
            counts = [int(count) for count in arguments.tokens.split(",")]
        elif arguments.quick:
            counts = [1, 16, 64, 4096]
        plans[name] = [made_plan(arguments.routing, name, SHAPES[name], count, device) for count in counts]
    return plans


def main():
    arguments = parse_arguments()
    torch.set_float32_matmul_precision("highest")  # the comparison
    vllm = gpu_peer_vllm.Vllm(arguments.vllm)
    bench = Bench(arguments, vllm)
    plans = planned(arguments, bench.device)
    result = {}
    if not arguments.check:
        bench.measure_copy_rate()
        result = {"device": torch.cuda.get_device_name(), "torch": torch.__version__, "triton": triton.__version__,
                  "cuda": torch.version.cuda, "vllm": vllm.version, "vllm_native": vllm.native,
                  "copy_bytes_per_s": bench.copy_bytes_per_s, "gpu_before": gpu_state()}
    for name, of_shape in plans.items():
        bench.run_shape(name, SHAPES[name], of_shape)
    if not arguments.check:
        result |= {"gpu_after": gpu_state(), "took_s": time.monotonic() - bench.begin_s, "notes": bench.notes,
                   "rows": bench.rows}
        if arguments.json:
            pathlib.Path(arguments.json).write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
        print_table(bench.rows, bench.copy_bytes_per_s)
        print("\n".join(bench.notes))
        print(f"before {result['gpu_before']}\nafter  {result['gpu_after']}\n{result['took_s']:.0f} s")
    wrong = [row for row in bench.rows if not row["ok"]]
    for row in wrong:
        print(f"WRONG: {row['peer']} {row['shape']} {row['tokens']}: relative error {row['relative_error']}")
    return 1 if wrong or not bench.rows else 0


if __name__ == "__main__":
    sys.exit(main())
