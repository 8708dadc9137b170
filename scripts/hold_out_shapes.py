#!/usr/bin/env python3
"""Splits a measured table by whole shape, to check a profile on shapes that it has not seen.

    scripts/hold_out_shapes.py TABLE.csv.gz --seed 7 --train train.csv --test test.csv
    build/thermoe fit --csv train.csv --out train.json
    build/thermoe cost --csv test.csv --profile train.json

A shape is its sizes and its split over devices, with all its kernels, types, loads and token counts.
"""
import argparse
import csv
import gzip
import random

EXPERTS = ("hidden_size", "inter_size", "topk", "num_experts", "moe_tp_size", "moe_ep_size")


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("table")
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--held-out-frac", type=float, default=0.3)
    parser.add_argument("--train", required=True)
    parser.add_argument("--test", required=True)
    arguments = parser.parse_args()
    with gzip.open(arguments.table, "rt", newline="") as file:
        rows = list(csv.DictReader(file))
    columns = EXPERTS if "topk" in rows[0] else ("n", "k")
    shapes = sorted({tuple(row[c] for c in columns) for row in rows})
    random.Random(arguments.seed).shuffle(shapes)
    held_out = set(shapes[:int(len(shapes) * arguments.held_out_frac)])
    for path, wanted in ((arguments.train, False), (arguments.test, True)):
        with open(path, "w", newline="") as file:
            writer = csv.DictWriter(file, rows[0].keys())
            writer.writeheader()
            writer.writerows(r for r in rows if (tuple(r[c] for c in columns) in held_out) == wanted)


if __name__ == "__main__":
    main()
