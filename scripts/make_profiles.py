#!/usr/bin/env python3
"""Makes data/profiles/*-bf16.json from measured tables. Deterministic; run by hand.

    scripts/make_profiles.py --tables DIR --out data/profiles

DIR holds the tables (<device>-moe-<framework>-<version>.csv.gz) of ai-dynamo/aiconfigurator; see
data/README.md for their origin and licence, docs/cost-model.md for the models fitted here.
Needs numpy. The power profiles come from scripts/identify_device.py.
"""
import argparse
import csv
import gzip
import json
import math
import pathlib

import numpy as np

PROVENANCE = {
    "origin": "https://github.com/ai-dynamo/aiconfigurator",
    "commit": "095f58a51",
    "licence": "Apache-2.0",
    "copyright": "NVIDIA CORPORATION & AFFILIATES",
    "changes": "bf16 rows of moe_tp=1, moe_ep=1; ms to us; expected distinct experts added",
}
TABLES = {  # output name -> (table, kernel, power file)
    "h100-sxm-bf16.json": (
        "h100_sxm-moe-vllm-0.24.0.csv.gz",
        "vllm_unquantizedfusedmoe_triton_tritonexperts",
        "h100-sxm-power.json",
    ),
    "h200-sxm-bf16.json": (
        "h200_sxm-moe-vllm-0.22.0.csv.gz",
        "vllm_fused_moe",
        "h200-sxm-power.json",
    ),
}
DRAWS = 64  # of a power-law load, for the expected distinct experts
TILE_ROWS = 16  # least rows of the Triton kernel's tiles


def balanced_distinct(tokens, experts, top_k):
    """Experts that the table's balanced loads touch: choice i of token t is t + i * stride."""
    stride = math.ceil(experts / top_k)
    step = 1.0 if tokens >= stride else stride / tokens
    return len({int((t * step + i * stride) % experts) for t in range(tokens) for i in range(top_k)})


def power_law_counts(rng, tokens, experts, top_k, alpha):
    """One draw of tokens per expert under the table's power law (its rounding and repairs)."""
    low, high = (1.0, 0.8 * tokens) if tokens * top_k > experts else (0.01, 2.0)
    a, b = low ** (1 - alpha), high ** (1 - alpha)
    sample = (a + (b - a) * rng.random(experts)) ** (1 / (1 - alpha))
    counts = np.rint(sample / sample.sum() * tokens * top_k).astype(int)
    overflow = int(np.maximum(counts - tokens, 0).sum())
    counts = np.minimum(counts, tokens)
    missing = tokens * top_k - int(counts.sum()) - overflow
    repairs = [1] * overflow + [int(np.sign(missing))] * abs(missing)
    for change in repairs:
        counts[np.argmin(counts) if change > 0 else np.argmax(counts)] += change
    return counts


def expected_distinct(tokens, experts, top_k, distribution):
    if distribution == "balanced":
        return float(balanced_distinct(tokens, experts, top_k))
    # Large loads touch every expert up to a fraction; fewer draws tell as much.
    draws = DRAWS if tokens <= 2048 else 8
    rng = np.random.default_rng([tokens, experts, top_k])
    alpha = float(distribution.removeprefix("power_law_"))
    hits = [(power_law_counts(rng, tokens, experts, top_k, alpha) > 0).sum() for _ in range(draws)]
    return round(float(np.mean(hits)), 2)


def latency_profile(path, kernel, power_file):
    groups, head = {}, None
    with gzip.open(path, "rt", newline="") as file:
        for row in csv.DictReader(file):
            if row["moe_dtype"] != "bfloat16" or row["kernel_source"] != kernel:
                continue
            if row["moe_tp_size"] != "1" or row["moe_ep_size"] != "1":
                continue
            head = row
            shape = tuple(int(row[c]) for c in ("hidden_size", "inter_size", "num_experts", "topk"))
            curve = groups.setdefault(shape, {}).setdefault(row["distribution"], {})
            curve.setdefault(int(row["num_tokens"]), []).append(float(row["latency"]) * 1e3)
    shapes = []
    for (hidden, inter, experts, top_k), curves in sorted(groups.items()):
        loads = []
        for distribution, points in sorted(curves.items()):
            tokens = sorted(points)
            loads.append({
                "distribution": distribution,
                "tokens": tokens,
                "distinct_experts": [expected_distinct(t, experts, top_k, distribution) for t in tokens],
                "latency_us": [round(float(np.median(points[t])), 2) for t in tokens],
            })
        shapes.append({"hidden_size": hidden, "expert_inter_size": inter, "experts": experts,
                       "top_k": top_k, "moe_tp": 1, "moe_ep": 1, "loads": loads})
    return {"schema": "thermoe-latency-profile", "version": 1, "device": head["device"],
            "framework": head["framework"] + " " + head["version"], "op": "moe", "kernel": kernel,
            "dtype": "bf16", "tile_rows": TILE_ROWS, "power_profile": power_file,
            "provenance": PROVENANCE, "shapes": shapes}


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--tables", type=pathlib.Path, required=True)
    parser.add_argument("--out", type=pathlib.Path, required=True)
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    files = {}
    for name, (table, kernel, power_file) in TABLES.items():
        files[name] = latency_profile(args.tables / table, kernel, power_file)
    for name, content in files.items():
        text = json.dumps(content, indent=1)
        # One line per list of numbers keeps the file readable and small.
        text = "\n".join(json_lines(text.split("\n")))
        (args.out / name).write_text(text + "\n")
        print(f"{args.out / name}: {len(text)} bytes")


def json_lines(lines):
    """Joins lists of numbers that json.dumps spread over lines."""
    out, row = [], None
    for line in lines:
        if row is None and line.endswith("["):
            row = [line]
        elif row is not None:
            row.append(line.strip())
            if row[-1].startswith("]"):
                out.append(row[0] + " ".join(row[1:-1]) + row[-1])
                row = None
            elif row[-1].endswith(("{", "[")) or '"' in row[-1]:
                out.extend([row[0], *(" " * 0 + r for r in row[1:-1]), line])
                row = [out.pop()] if row[-1].endswith("[") else None
        else:
            out.append(line)
    return out


if __name__ == "__main__":
    main()
