"""What thermoe quantize writes, against a reader of the planes of its own and transformers on the dense weights."""

import json
import os
import pathlib
import subprocess

import numpy as np
import pytest
import torch
from nested_planes import Planes
from reference_loss import reference_loss
from safetensors.torch import load_file

ROOT = pathlib.Path(__file__).resolve().parents[2]
PROGRAM = os.environ.get("THERMOE_PROGRAM", str(ROOT / "build" / "thermoe"))
NANO = ROOT / "models" / "nano"
TEXT = ROOT / "data" / "text" / "wikitext103-valid.txt"
WINDOWS = 32


@pytest.fixture(scope="module")
def planes(tmp_path_factory):
    out = tmp_path_factory.mktemp("quantised") / "nano"
    command = [PROGRAM, "quantize", "--model", NANO, "--out", out, "--json", "-", "--tokens", "2048"]
    for text in ("wiki", "code"):
        command += ["--calibrate", ROOT / "data" / "text" / f"{text}.txt"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert report["expert_bytes"] <= 0.53 * report["stored_expert_bytes"]
    return Planes(out)


def prefix(layer, expert):
    return f"model.layers.{layer}.mlp.experts.{expert}."


def experts_of(config):
    return [(layer, e) for layer in range(config["num_hidden_layers"]) for e in range(config["num_local_experts"])]


def test_planes_hold_the_weights(planes):
    stored = {}
    for shard in NANO.glob("*.safetensors"):
        stored.update(load_file(shard))
    hidden, inter = planes.config["hidden_size"], planes.config["moe_intermediate_size"]
    for layer, e in experts_of(planes.config)[::7]:
        at = prefix(layer, e)
        whole = planes.expert(at, hidden, inter, "int8")
        first = planes.expert(at, hidden, inter, "int4")
        for name, int8, int4 in zip(("gate_proj", "up_proj", "down_proj"), whole, first):
            exact = stored[f"{at}{name}.weight"].float().numpy()
            square = np.square(exact).sum()
            assert np.square(int8 - exact).sum() < 1.5e-4 * square
            assert 2e-3 * square < np.square(int4 - exact).sum() < 2e-2 * square


@pytest.mark.parametrize("precision", ["int8", "int4"])
def test_cross_entropy_is_that_of_transformers_on_the_dense_weights(planes, precision):
    hidden, inter = planes.config["hidden_size"], planes.config["moe_intermediate_size"]

    def prepare(model):
        for layer, e in experts_of(planes.config):
            gate, up, down = planes.expert(prefix(layer, e), hidden, inter, precision)
            experts = model.model.layers[layer].mlp.experts
            experts.gate_up_proj.data[e] = torch.from_numpy(np.concatenate([gate, up]))
            experts.down_proj.data[e] = torch.from_numpy(down.copy())

    tokens, loss = reference_loss(str(NANO), [str(TEXT)], max_windows=WINDOWS, dtype="float32", prepare=prepare)
    command = [PROGRAM, "eval", "--model", planes.directory, "--text", TEXT, "--policy", "topk", "--json", "-"]
    command += ["--max-windows", str(WINDOWS), "--variants", precision]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    mine = json.loads(done.stdout)
    assert mine["tokens"] == tokens
    # The program's activations are int8, which may move the loss by some 0.0003 nats.
    assert mine["cross_entropy_nats"] == pytest.approx(loss, abs=0.001)
