#!/usr/bin/env python3
"""Decoding in Hugging Face transformers, plain and with thermoe.attach: tokens/s and joules a token.

Models: folders of checkpoints, and qwen3-30b-a3b:layers=N, random weights of that shape. Plain with the experts
implementations grouped_mm and batched_mm, and the faster of them with thermoe attached at fixed opening prices. A decode
step at one position over a static cache is captured as a CUDA graph (--eager: not) and replayed with other tokens each
time. Routers of random weights choose almost at random: their plans change less than a trained model's.

Without a GPU, --device cpu runs the same eagerly, without energy.
"""

import argparse
import json
import pathlib
import time

import torch
import transformers

import thermoe
from gpu_peers import gpu_state

CONTEXT = 128
IMPLEMENTATIONS = ("grouped_mm", "batched_mm")


def model_of(name, device):
    """A model in bfloat16, and how it is called in the results."""
    if not name.startswith("qwen3-30b-a3b"):
        made = transformers.AutoModelForCausalLM.from_pretrained(name, dtype=torch.bfloat16)
        return made.to(device).eval(), pathlib.Path(name).name
    layers = int(name.partition("layers=")[2] or 4)
    config = transformers.Qwen3MoeConfig(
        hidden_size=2048, moe_intermediate_size=768, num_experts=128, num_experts_per_tok=8, num_hidden_layers=layers,
        num_attention_heads=32, num_key_value_heads=4, head_dim=128, norm_topk_prob=True, vocab_size=151936,
        max_position_embeddings=4096)
    torch.manual_seed(1)
    with torch.device(device):
        torch.set_default_dtype(torch.bfloat16)
        made = transformers.AutoModelForCausalLM.from_config(config)
        torch.set_default_dtype(torch.float32)
    return made.eval(), name


class Decoding:
    """One step of so many sequences after CONTEXT tokens, again and again."""

    def __init__(self, model, batch, graphed):
        self.model, device = model, next(model.parameters()).device
        generator = torch.Generator().manual_seed(2)
        vocabulary = model.config.vocab_size
        self.tokens = torch.randint(0, vocabulary, (64, batch, 1), generator=generator).to(device)
        self.input = self.tokens[0].clone()
        self.cache = transformers.StaticCache(config=model.config, max_cache_len=CONTEXT + 1)
        prompt = torch.randint(0, vocabulary, (batch, CONTEXT), generator=generator).to(device)
        self.positions = torch.full((batch, 1), CONTEXT, device=device)
        self.at = 0
        self._forward(prompt, torch.arange(CONTEXT, device=device).expand(batch, -1))
        self.at = CONTEXT
        self.graph, self.count = None, 0
        if graphed:
            self._capture()

    def _forward(self, tokens, positions):
        for layer in self.cache.layers:  # which else goes on where the last pass ended
            if isinstance(getattr(layer, "cumulative_length", None), torch.Tensor):
                layer.cumulative_length.fill_(self.at)
        return self.model(input_ids=tokens, position_ids=positions, cache_position=positions[0],
                          past_key_values=self.cache, use_cache=True).logits

    def _capture(self):
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(3):
                self._forward(self.input, self.positions)
        torch.cuda.current_stream().wait_stream(stream)
        self.graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self.graph):
            self.logits = self._forward(self.input, self.positions)

    def step(self):
        self.input.copy_(self.tokens[self.count % len(self.tokens)])
        self.count += 1
        if self.graph is not None:
            self.graph.replay()
        else:
            self.logits = self._forward(self.input, self.positions)


def timed(decoding, seconds, monitor):
    """Steps back to back for so long: (tokens/s, J a token or None)."""
    sync = torch.cuda.synchronize if decoding.input.is_cuda else lambda: None
    for _ in range(3):
        decoding.step()
    sync()
    if not decoding.logits.isfinite().all():
        raise SystemExit("logits are not finite")
    before = None if monitor is None else monitor.poll().energy_mj
    steps, start = 0, time.perf_counter()
    while time.perf_counter() - start < seconds:
        for _ in range(10 if decoding.input.is_cuda else 1):
            decoding.step()
            steps += 1
        sync()
    elapsed = time.perf_counter() - start
    tokens = steps * decoding.input.shape[0]
    energy = None if before is None else (monitor.poll().energy_mj - before) / 1e3
    return tokens / elapsed, None if energy is None else energy / tokens


def measure(model, name, batch, arguments, monitor, rows):
    graphed = next(model.parameters()).is_cuda and not arguments.eager

    def row(how, price):
        speed, joules = timed(Decoding(model, batch, graphed), arguments.seconds, monitor)
        rows.append({"model": name, "batch": batch, "experts": how, "open_price": price, "graph": graphed,
                     "tokens_per_s": speed, "j_per_token": joules})
        print(f"{name:28}{batch:5}  {how:12}{'plain' if price is None else f'price {price}':14}{speed:10.1f} tokens/s"
              + ("" if joules is None else f"{joules * 1e3:10.2f} mJ a token"), flush=True)
        return speed

    speeds = {}
    for how in IMPLEMENTATIONS:
        model.set_experts_implementation(how)
        try:
            speeds[how] = row(how, None)
        except (RuntimeError, NotImplementedError, ValueError) as error:  # an implementation that can't run this
            print(f"{name} {batch} {how}: {str(error).splitlines()[0]}", flush=True)
    best = max(speeds, key=speeds.get)
    model.set_experts_implementation(best)
    for price in arguments.prices:
        with thermoe.attach(model, prices=(price, 0.0), monitor=None):
            row(best, price)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*", default=["models/nano", "qwen3-30b-a3b:layers=4"])
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--batches", type=int, nargs="*", default=[1, 16, 64])
    parser.add_argument("--prices", type=float, nargs="*", default=[0.0, 0.02, 0.1])
    parser.add_argument("--seconds", type=float, default=2.0, help="of each measurement")
    parser.add_argument("--eager", action="store_true", help="no CUDA graph")
    parser.add_argument("--json", type=pathlib.Path)
    parser.add_argument("--commit", default="")
    arguments = parser.parse_args()
    monitor = thermoe.Monitor("nvml:0") if arguments.device == "cuda" else None
    rows = []
    with torch.inference_mode():
        for name in arguments.models:
            model, called = model_of(name, arguments.device)
            for batch in arguments.batches:
                measure(model, called, batch, arguments, monitor, rows)
            del model
    if arguments.json:
        on_gpu = arguments.device == "cuda"
        result = {"device": torch.cuda.get_device_name() if on_gpu else "cpu", "gpu_state": gpu_state(),
                  "torch": torch.__version__, "transformers": transformers.__version__, "commit": arguments.commit,
                  "rows": rows}
        arguments.json.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
