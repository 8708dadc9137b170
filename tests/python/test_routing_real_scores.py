"""The certificate on real routers' scores, against HiGHS.

THERMOE_BUILD_DIR names the build; THERMOE_EXTRA_MODELS (paths, ':' between) adds checkpoints to nano.
"""

import itertools
import json
import multiprocessing
import os
import pathlib
import subprocess

import numpy as np
import pytest
from routing_reference import Program, evaluate, solve
from test_routing_program import BUILD, ROOT, chosen_of, optimum_faults, report_faults, route

RECORDER = BUILD / "tests" / "routing" / "routing_record_scores"
TEXT = ROOT / "data" / "text" / "wikitext103-valid.txt"
MODELS = [str(ROOT / "models" / "nano")] + [
    path for path in os.environ.get("THERMOE_EXTRA_MODELS", "").split(":") if path
]
PRICES, POWERS = (0.02, 0.05, 0.1), (1.0, 2.0)
TIME_LIMIT_S = 120  # of one batch's optimum; a plan counts as optimal only where that is proven


def record(model, folder, batch, context, stride):
    """[N, batch, E] scores at every stride-th position of every layer, and the model's k."""
    out = folder / f"scores-{batch}.npy"
    arguments = [RECORDER, model, TEXT, batch, context, stride, out]
    done = subprocess.run([str(a) for a in arguments], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    config = json.loads(pathlib.Path(model, "config.json").read_text())
    return np.load(out), config["num_experts_per_tok"]


def instances_of(scores, k):
    return [
        {
            "scores": matrix.astype(float).tolist(),
            "k": k,
            "prices": {"open": [float(np.float32(price))] * matrix.shape[1]},
            "settings": {"power": power},
        }
        for matrix in scores
        for price, power in itertools.product(PRICES, POWERS)
    ]


def judge(pair):
    """(faults, gap_frac, plan's distance from the optimum as a fraction, seconds)."""
    instance, answer = pair
    if "error" in answer:
        return [answer["error"]], np.nan, np.nan, np.nan
    program = Program(instance)
    chosen, faults = chosen_of(program, answer)
    value = evaluate(program, chosen)
    optimum = solve(program, relaxation=False, time_limit_s=TIME_LIMIT_S)
    faults += report_faults(program, chosen, value, answer)
    faults += optimum_faults(program, value, optimum, answer)
    best = max(optimum.value, optimum.proven)
    return faults, answer["report"]["gap_frac"], (best - value.objective) / abs(best), answer["seconds"]


def table_of(results, batch):
    lines = [f"batch {batch}  price  power     n  optimal  gap 50 %     99 %      max  plan max  median us"]
    for n, (price, power) in enumerate([*itertools.product(PRICES, POWERS), ("all", "")]):
        part = results if price == "all" else results[n :: len(PRICES) * len(POWERS)]
        gaps, distances, seconds = (np.array([r[i] for r in part]) for i in (1, 2, 3))
        lines.append(
            f"{'':8}{price:>7}{power:>7}{len(part):>6}{np.mean(distances <= 1e-6):>9.4f}"
            + "".join(f"{q:>{w}.1e}" for q, w in zip(np.quantile(gaps, [0.5, 0.99, 1]), (10, 9, 9)))
            + f"{distances.max():>10.1e}{1e6 * np.median(seconds):>11.0f}"
        )
    return "\n".join(lines)


@pytest.mark.parametrize("model", MODELS)
# 60 and 4 matrices (10 and 2 positions of nano's 6 layers), each at every price and power: 360 + 24
@pytest.mark.parametrize(("batch", "context", "stride", "most"), [(16, 160, 16, 60), (64, 64, 32, 4)])
def test_plans_on_real_scores_are_optimal_and_certified(
    model, batch, context, stride, most, tmp_path, capsys
):
    scores, k = record(model, tmp_path, batch, context, stride)
    instances = instances_of(scores[np.linspace(0, len(scores) - 1, most).astype(int)], k)
    answers = route(instances)
    with multiprocessing.Pool(min(os.cpu_count() or 1, 8)) as pool:
        results = pool.map(judge, zip(instances, answers), chunksize=6)
    with capsys.disabled():
        print(f"\n{pathlib.Path(model).name}\n{table_of(results, batch)}")
    faults = [(n, r[0]) for n, r in enumerate(results) if r[0]]
    assert not faults, f"{len(faults)} batches, the first: {faults[:10]}"
    gaps = np.array([r[1] for r in results])
    assert np.median(gaps) <= 0.001
    assert np.quantile(gaps, 0.99) <= 0.01
    assert np.mean([r[2] <= 1e-6 for r in results]) >= 0.99
