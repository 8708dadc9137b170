#!/usr/bin/env python3
"""Makes data/profiles/*.json from measured tables and a recorded trace. Deterministic; run by hand.

    scripts/make_profiles.py --tables DIR --trace data/telemetry/h100-sxm-700w.csv --out data/profiles

DIR holds the tables (<device>-moe-<framework>-<version>.csv.gz) of ai-dynamo/aiconfigurator; see
data/README.md for their origin and licence, docs/cost-model.md for the models fitted here.
Needs numpy and scipy. Prints the residuals that docs/cost-model.md reports.
"""
import argparse
import csv
import gzip
import json
import math
import pathlib

import numpy as np
from scipy.optimize import least_squares

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


# --- The H100's power and thermal parameters -----------------------------------------------------

# Assumptions that the trace can't identify (docs/cost-model.md).
CLOCK_MAX, CLOCK_MIN, CLOCK_KNEE, VOLTAGE_FLOOR = 1980.0, 345.0, 1050.0, 0.72
GEMM_TFLOPS = 673.0  # measured beside the trace, 8192^3 bf16 at the cap
GEMM_BYTES = 8192**2 * 2 * 3  # each operand and the result once
COPY_BYTES_PER_S = 3.0e12  # read plus write
# Latency of one layer in the phases moe_B16_d<distinct>, measured beside the trace.
MOE_LATENCY_US = {16: 80.6, 32: 133.7, 64: 250.8, 128: 474.5}
EXPERT_PARAMS = 3 * 2048 * 768


def read_trace(path):
    with open(path, newline="") as file:
        rows = list(csv.DictReader(file))
    columns = {c: np.array([float(r[c]) for r in rows]) for c in rows[0] if c != "phase"}
    return columns, np.array([r["phase"] for r in rows])


def phase_means(trace, phases, name, skip_s):
    """Mean power by the energy counter, temperature and clock of a phase after its first skip_s."""
    index = np.flatnonzero(phases == name)
    index = index[trace["time_s"][index] >= trace["time_s"][index[0]] + skip_s]
    changes = index[1:][np.diff(trace["energy_mj"][index]) > 0]
    first, last = changes[0], changes[-1]
    power = (trace["energy_mj"][last] - trace["energy_mj"][first]) / 1e3 / (
        trace["time_s"][last] - trace["time_s"][first])
    return power, trace["temp_c"][index].mean(), trace["sm_clock_mhz"][index].mean()


def voltage_frac(clock):
    x = np.clip((clock - CLOCK_KNEE) / (CLOCK_MAX - CLOCK_KNEE), 0, 1)
    return VOLTAGE_FLOOR + (1 - VOLTAGE_FLOOR) * x


def fit_power(trace, phases):
    idle = (phases == "idle") & (trace["time_s"] > 1.5)
    cool = (phases == "cool") & (trace["time_s"] > 44.5) & (trace["time_s"] < 51)
    quiet = idle | cool
    leakage, at_zero = np.polyfit(trace["temp_c"][quiet], trace["power_instant_w"][quiet], 1)
    reference = 44.0
    idle_w = at_zero + leakage * reference

    points = []  # name, power, temperature, [sm, bytes/s, flops/s] coefficients
    for distinct, latency in MOE_LATENCY_US.items():
        power, temp, clock = phase_means(trace, phases, f"moe_B16_d{distinct}", 1.5)
        rate = distinct / (latency * 1e-6)
        v2 = voltage_frac(clock) ** 2
        points.append((f"moe_B16_d{distinct}", power, temp,
                       [clock / CLOCK_MAX * v2, rate * EXPERT_PARAMS * 2,
                        rate * TILE_ROWS * 2 * EXPERT_PARAMS * v2]))
    power, temp, clock = phase_means(trace, phases, "copy_2GiB", 2)
    points.append(("copy_2GiB", power, temp, [0.0, COPY_BYTES_PER_S, 0.0]))
    power, temp, clock = phase_means(trace, phases, "gemm_bf16_8192", 5)
    v2 = voltage_frac(clock) ** 2
    gemms_per_s = GEMM_TFLOPS * 1e12 / (2 * 8192**3)
    points.append(("gemm_bf16_8192", power, temp,
                   [clock / CLOCK_MAX * v2, gemms_per_s * GEMM_BYTES, GEMM_TFLOPS * 1e12 * v2]))

    a = np.array([p[3] for p in points]) * [1, 1e-12, 1e-12]
    y = np.array([p[1] - idle_w - leakage * (p[2] - reference) for p in points])
    fit = least_squares(lambda x: (a @ x - y) / y, [100, 100, 1], bounds=(0, np.inf))
    print(f"idle {idle_w:.1f} W at {reference:.0f} C, leakage {leakage:.3f} W/C; GEMM clock {clock:.0f}")
    residuals = {}
    for point, predicted in zip(points, a @ fit.x):
        total = predicted + point[1] - y[points.index(point)]
        residuals[point[0]] = round(float(total / point[1] - 1), 4)
        print(f"  {point[0]:16s} {point[1]:6.1f} W recorded, {total:6.1f} W fitted")
    sm, byte, flop = (float(x) for x in fit.x)
    return {"idle_w": idle_w, "leakage_w_per_c": leakage, "leakage_reference_c": reference,
            "sm_active_w": sm, "energy_per_byte_pj": byte, "energy_per_flop_pj": flop}, residuals


def fit_thermal(trace):
    time, temp, energy = trace["time_s"], trace["temp_c"], trace["energy_mj"] / 1e3
    change = np.r_[0, np.flatnonzero(np.diff(energy)) + 1]
    middle = (time[change][1:] + time[change][:-1]) / 2
    power_at = np.diff(energy[change]) / np.diff(time[change])
    keep = np.arange(0, len(time), 3)
    time, temp = time[keep], temp[keep]
    power = np.interp(time, middle, power_at)
    dt = np.diff(time)

    def simulate(x):
        inlet, resistance, tau, theta = x[0], x[1:3], np.exp(x[3:5]), x[5:7].copy()
        decay = np.exp(-dt[:, None] / tau)
        out = np.empty_like(temp)
        out[0] = inlet + theta.sum()
        for i, d in enumerate(decay):
            steady = resistance * power[i + 1]
            theta = steady + (theta - steady) * d
            out[i + 1] = inlet + theta.sum()
        return out

    # Least absolute deviations, smoothed at the sensor's half degree.
    start = np.array([34, 0.02, 0.03, math.log(0.25), math.log(11), 15, 10])
    fit = least_squares(lambda x: simulate(x) - temp, start, x_scale=np.abs(start), loss="soft_l1",
                        f_scale=0.5)
    error = simulate(fit.x) - temp
    mae = float(np.abs(error).mean())
    x = fit.x
    print(f"thermal: inlet {x[0]:.1f} C, R {x[1]:.4f} {x[2]:.4f} C/W, tau {np.exp(x[3]):.2f} "
          f"{np.exp(x[4]):.2f} s; mean absolute error {mae:.2f} C, rms {error.std():.2f} C")
    return {"inlet_c": x[0], "fast_resistance_c_per_w": x[1], "slow_resistance_c_per_w": x[2],
            "fast_time_constant_s": math.exp(x[3]), "slow_time_constant_s": math.exp(x[4])}, mae


def rounded(values):
    return {k: float(f"{v:.5g}") for k, v in values.items()}


def power_profiles(trace_path):
    trace, phases = read_trace(trace_path)
    gemm_clock = phase_means(trace, phases, "gemm_bf16_8192", 5)[2]
    power, residuals = fit_power(trace, phases)
    thermal, mae = fit_thermal(trace)
    parameters = {"clock_max_mhz": CLOCK_MAX, "clock_min_mhz": CLOCK_MIN,
                  "clock_knee_mhz": CLOCK_KNEE, "voltage_floor_frac": VOLTAGE_FLOOR,
                  "power_limit_w": 700.0, "slowdown_c": 87.0, "hardware_slowdown_c": 89.0,
                  # Peak DRAM bandwidth (data sheet), for rooflines.
                  "memory_bytes_per_s": 3.35e12,
                  # The measured GEMM's rate, scaled from its clock to the maximum.
                  "tensor_flops_per_s": round(GEMM_TFLOPS * CLOCK_MAX / gemm_clock) * 1e12,
                  **rounded(power), **rounded(thermal)}
    h100 = {"schema": "thermoe-power-profile", "version": 1, "device": "NVIDIA H100 80GB HBM3",
            "provenance": {"origin": "data/telemetry/h100-sxm-700w.csv, recorded for this project",
                           "identified": sorted([*power, *thermal]),
                           "assumed": ["clock_knee_mhz", "voltage_floor_frac"]},
            "residuals_frac": residuals, "temperature_mean_absolute_error_c": round(mae, 3),
            "parameters": parameters}
    h200 = {"schema": "thermoe-power-profile", "version": 1, "device": "NVIDIA H200",
            "provenance": {"origin": "transferred from the H100's profile: the same processor die",
                           "identified": [], "assumed": "all but power_limit_w, memory_bytes_per_s"},
            "parameters": {**parameters, "memory_bytes_per_s": 4.8e12}}
    return {"h100-sxm-power.json": h100, "h200-sxm-power.json": h200}


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--tables", type=pathlib.Path, required=True)
    parser.add_argument("--trace", type=pathlib.Path, required=True)
    parser.add_argument("--out", type=pathlib.Path, required=True)
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    files = power_profiles(args.trace)
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
