"""`thermoe eval` against transformers in bf16, on the same windows.

THERMOE_PROGRAM names the program; THERMOE_EXTRA_MODELS (paths, ':' between) adds checkpoints to nano.
"""

import json
import os
import pathlib
import subprocess

import pytest
from reference_loss import reference_loss

ROOT = pathlib.Path(__file__).resolve().parents[2]
PROGRAM = os.environ.get("THERMOE_PROGRAM", str(ROOT / "build" / "thermoe"))
TEXT = str(ROOT / "data" / "text" / "wikitext103-valid.txt")
MODELS = [str(ROOT / "models" / "nano")] + [
    path for path in os.environ.get("THERMOE_EXTRA_MODELS", "").split(":") if path
]
WINDOWS = 32


def evaluate(model, *arguments):
    command = [PROGRAM, "eval", "--model", model, "--text", TEXT, "--max-windows", str(WINDOWS)]
    done = subprocess.run([*command, "--json", "-", *arguments], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize("model", MODELS)
def test_cross_entropy_is_that_of_transformers(model):
    mine = evaluate(model, "--policy", "topk")
    tokens, loss = reference_loss(model, [TEXT], max_windows=WINDOWS)
    assert mine["tokens"] == tokens
    assert mine["cross_entropy_nats"] == pytest.approx(loss, abs=0.002)


def test_zero_prices_change_nothing_and_prices_cost_little():
    nano = MODELS[0]
    plain = evaluate(nano, "--policy", "topk")
    free = evaluate(nano, "--policy", "adaptive", "--open-price", "0")
    assert free["cross_entropy_nats"] == plain["cross_entropy_nats"]
    assert free["distinct_experts_mean"] == plain["distinct_experts_mean"]
    priced = evaluate(nano, "--policy", "adaptive", "--open-price", "0.05")
    assert priced["expert_bytes_frac"] < 0.97
    assert priced["predicted_latency_us"] < plain["predicted_latency_us"]
    assert plain["cross_entropy_nats"] < priced["cross_entropy_nats"] < plain["cross_entropy_nats"] + 0.1
    assert 0 <= priced["certificate_gap_frac_median"] <= priced["certificate_gap_frac_max"]
