#!/usr/bin/env python3
"""Measures the cost assumptions of docs/theory-costs.md over whole measured tables. Run by hand.

    scripts/measure_assumptions.py --tables DIR --out bench/results/assumptions.json

DIR holds the tables (<device>-moe-<framework>-<version>.csv.gz) of ai-dynamo/aiconfigurator, as for
scripts/make-profiles. Every curve (kernel, type, shape, split, load distribution; at least 10 token
counts) is taken along its tokens. Standard library only; deterministic.
"""
import argparse
import csv
import gzip
import json
import pathlib
import statistics

CURVE = ("kernel_source", "moe_dtype", "hidden_size", "inter_size", "topk", "num_experts",
         "moe_tp_size", "moe_ep_size", "distribution")
LEAST_TOKEN_COUNTS = 10
# Power was polled every 100 ms through a one-second average: rows below about 0.3 ms are
# unreliable. Three times that, to be safe.
LEAST_POWER_MS = 1.0
LEAST_POWER_ROWS = 5
AT_CAP_FRAC = 0.97  # of the power limit: above, the clock is no longer fixed


def envelope(xs, ys):
    """The greatest convex function below the curve, at its points (x rising strictly)."""
    hull = []
    for x, y in zip(xs, ys):
        while len(hull) > 1 and ((hull[-1][1] - hull[-2][1]) * (x - hull[-2][0])
                                 >= (y - hull[-2][1]) * (hull[-1][0] - hull[-2][0])):
            hull.pop()
        hull.append((x, y))
    out, piece = [], 0
    for x in xs:
        while piece + 2 < len(hull) and x > hull[piece + 1][0]:
            piece += 1
        (x0, y0), (x1, y1) = hull[piece], hull[min(piece + 1, len(hull) - 1)]
        out.append(y0 if x1 == x0 else y0 + (y1 - y0) * (x - x0) / (x1 - x0))
    return out


def gaps(xs, ys):
    return [(y - low) / y for y, low in zip(ys, envelope(xs, ys))]


def largest_fall(values):
    """The largest distance below the running maximum, relative to that."""
    top, fall = values[0], 0.0
    for value in values:
        top = max(top, value)
        fall = max(fall, 1 - value / top)
    return fall


def two_term_error(first, second, values):
    """Mean relative error of values ~ a first + b second (relative least squares; a, b >= 0)."""
    u = [f / v for f, v in zip(first, values)]
    w = [s / v for s, v in zip(second, values)]
    uu, ww, uw = (sum(p * q for p, q in zip(*pair)) for pair in ((u, u), (w, w), (u, w)))
    det = uu * ww - uw * uw
    candidates = [(sum(u) / uu, 0.0), (0.0, sum(w) / ww)]
    if det > 1e-12 * uu * ww:
        a, b = (sum(u) * ww - sum(w) * uw) / det, (sum(w) * uu - sum(u) * uw) / det
        if a >= 0 and b >= 0:
            candidates = [(a, b)]
    residuals = [[a * p + b * q - 1 for p, q in zip(u, w)] for a, b in candidates]
    best = min(residuals, key=lambda r: sum(x * x for x in r))
    return statistics.fmean(abs(x) for x in best)


def read_curves(path):
    curves = {}
    with gzip.open(path, "rt", newline="") as file:
        for row in csv.DictReader(file):
            curve = curves.setdefault(tuple(row[c] for c in CURVE), {})
            point = tuple(float(row.get(c) or 0) for c in ("latency", "power", "power_limit"))
            curve.setdefault(int(row["num_tokens"]), point)
    return [sorted((t, *p) for t, p in c.items())
            for c in curves.values() if len(c) >= LEAST_TOKEN_COUNTS]


def spread(values):
    ordered = sorted(values)
    return {"median": round(statistics.median(ordered), 4),
            "p90": round(ordered[len(ordered) * 9 // 10], 4), "largest": round(ordered[-1], 4)}


def power_figures(curves):
    falls, energy_falls, energy_gaps, errors, rows, capped = [], [], [], [], 0, 0
    for curve in curves:
        sure = [(t, ms, w, limit) for t, ms, w, limit in curve if ms >= LEAST_POWER_MS and w > 0]
        free = [p for p in sure if p[2] < AT_CAP_FRAC * p[3]]
        rows, capped = rows + len(sure), capped + len(sure) - len(free)
        if len(free) < LEAST_POWER_ROWS:
            continue
        falls.append(largest_fall([w for _, _, w, _ in free]))
        energy = [ms * w for _, ms, w, _ in free]
        energy_falls.append(largest_fall(energy))
        energy_gaps.append(max(gaps([t for t, *_ in free], energy)))
        errors.append(two_term_error([ms for _, ms, _, _ in free], [t for t, *_ in free],
                                     energy))
    if rows == 0:
        return None
    figures = {"rows": rows, "rows_at_cap_frac": round(capped / rows, 4), "curves": len(falls)}
    if falls:
        figures["power_largest_fall_frac"] = spread(falls)
        figures["energy_largest_fall_frac"] = spread(energy_falls)
        figures["energy_token_gap_largest_frac"] = spread(energy_gaps)
        figures["energy_idle_time_plus_tokens_error_frac"] = spread(errors)
    return figures


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--tables", type=pathlib.Path, required=True)
    parser.add_argument("--out", type=pathlib.Path, required=True)
    arguments = parser.parse_args()
    result = {"command": "scripts/measure_assumptions.py --tables DIR --out " + str(arguments.out),
              "origin": "ai-dynamo/aiconfigurator, commit 095f58a51, Apache-2.0", "tables": {}}
    for path in sorted(arguments.tables.glob("*-moe-*.csv.gz")):
        curves = read_curves(path)
        per_curve = [gaps([t for t, *_ in c], [ms for _, ms, *_ in c]) for c in curves]
        figures = {"curves": len(curves),
                   "token_gap_median_frac": spread([statistics.median(g) for g in per_curve]),
                   "token_gap_largest_frac": spread([max(g) for g in per_curve]),
                   "power": power_figures(curves)}
        result["tables"][path.name.removesuffix(".csv.gz")] = figures
        print(path.name, json.dumps(figures, indent=1))
    arguments.out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
