#!/usr/bin/env python3
"""What PyTorch takes for plain routing, beside gpu_routing's "topk": softmax, top-k, renormalised
weights, and the packed order (a stable sort of the expert ids and the experts' offsets in it).

Replays CUDA graphs of 20 routings with different logits, as bench/gpu_routing.cpp does; prints the
median time of one in microseconds. Needs torch with CUDA.

    gpu_routing_peers.py [--json FILE] [--commit HASH]
"""

import argparse
import json
import statistics

import torch

LAUNCHES, REPLAYS, WARM_UPS = 20, 100, 10
EXPERTS, TOP_K = 128, 8


def route(logits, bounds):
    scores = torch.softmax(logits, dim=-1)
    weights, ids = torch.topk(scores, TOP_K, dim=-1)
    weights = weights / weights.sum(dim=-1, keepdim=True)
    ordered, packed = ids.flatten().sort(stable=True)
    offsets = torch.searchsorted(ordered, bounds)
    return ids, weights, packed, offsets


def time_us(tokens):
    torch.manual_seed(0)
    bounds = torch.arange(EXPERTS + 1, device="cuda")
    batches = [1.5 * torch.randn(tokens, EXPERTS, device="cuda") for _ in range(LAUNCHES)]
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        for batch in batches:
            route(batch, bounds)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        kept = [route(batch, bounds) for batch in batches]
    times_us = []
    for replay in range(WARM_UPS + REPLAYS):
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        graph.replay()
        end.record()
        end.synchronize()
        if replay >= WARM_UPS:
            times_us.append(1e3 * begin.elapsed_time(end) / LAUNCHES)
    offsets = kept[-1][3]
    assert int(offsets[-1]) == tokens * TOP_K
    return statistics.median(times_us)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", help="write the times to this file")
    parser.add_argument("--commit", default="", help="what was measured beside")
    arguments = parser.parse_args()
    out = {
        "device": torch.cuda.get_device_name(),
        "torch": torch.__version__,
        "commit": arguments.commit,
        "cases": [],
    }
    print(f"{out['device']}, torch {out['torch']}\n{'T':>6} {'median_us':>10}")
    for tokens in (1, 8, 16, 32, 64, 256, 1024, 4096, 16384):
        median_us = time_us(tokens)
        print(f"{tokens:6} {median_us:10.2f}")
        out["cases"].append({"tokens": tokens, "experts": EXPERTS, "k": TOP_K,
                             "median_us": median_us})
    if arguments.json:
        with open(arguments.json, "w", encoding="utf-8") as file:
            json.dump(out, file, indent=1)


if __name__ == "__main__":
    main()
