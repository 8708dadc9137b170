"""`thermoe route` on arrays that NumPy wrote, and NumPy on the arrays that it writes.

THERMOE_PROGRAM names the program.
"""

import json
import os
import pathlib
import subprocess

import numpy as np
import pytest
from numpy.lib import format as npy_format

ROOT = pathlib.Path(__file__).resolve().parents[2]
PROGRAM = os.environ.get("THERMOE_PROGRAM", str(ROOT / "build" / "thermoe"))
K = 4


def run(*arguments, stdin=None):
    return subprocess.run([PROGRAM, "route", *map(str, arguments)], capture_output=True, stdin=stdin)


def route(*arguments, stdin=None):
    done = run(*arguments, "--json", "-", stdin=stdin)
    assert done.returncode == 0, done.stderr.decode()
    return json.loads(done.stdout)


def logits(*shape):
    # Distinct in binary16 within a row, so that there is one top-k.
    values = np.random.default_rng(5).permuted(np.broadcast_to(np.arange(shape[-1]), shape), axis=-1)
    return np.ascontiguousarray(values / 4 - 3, dtype=np.float32)


@pytest.mark.parametrize("shape", [(16, 32), (3, 16, 32)])
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize("version", [(1, 0), (2, 0), (3, 0)])
def test_zero_price_is_argsort(tmp_path, shape, dtype, version):
    array = logits(*shape).astype(dtype)
    with open(tmp_path / "a.npy", "wb") as file:
        npy_format.write_array(file, array, version=version)
    result = route("--logits", tmp_path / "a.npy", "--k", K, "--out", tmp_path / "plan")
    expected = np.argsort(-array, axis=-1, kind="stable")[..., :K]
    ids, weights = (np.load(tmp_path / f"plan.{name}.npy") for name in ("ids", "weights"))
    assert ids.dtype == np.int32 and weights.dtype == np.float32
    np.testing.assert_array_equal(ids, expected)
    np.testing.assert_array_equal(np.array([b["plan"]["ids"] for b in result["batches"]]).reshape(ids.shape), ids)
    gates = np.exp(array.astype(np.float64))
    top = np.take_along_axis(gates, expected, axis=-1)
    np.testing.assert_allclose(weights, top / top.sum(axis=-1, keepdims=True), rtol=1e-5)
    assert all(b["report"]["gap_frac"] == 0 for b in result["batches"])


def test_bfloat16_bits_and_standard_input(tmp_path):
    array = logits(16, 32)
    np.save(tmp_path / "bits.npy", (array.view(np.uint32) >> 16).astype(np.uint16))
    np.save(tmp_path / "a.npy", array)  # quarters: exact in bfloat16
    with open(tmp_path / "bits.npy", "rb") as file:
        piped = route("--logits", "-", "--k", K, "--open-price", 0.1, stdin=file)
    named = route("--logits", tmp_path / "a.npy", "--k", K, "--open-price", 0.1)
    assert piped["batches"][0]["plan"] == named["batches"][0]["plan"]
    assert named["batches"][0]["report"]["changed_tokens"] > 0


def test_prices_of_each_expert_from_numpy(tmp_path):
    np.save(tmp_path / "a.npy", logits(2, 16, 32))
    prices = np.zeros(32)
    prices[7] = 1000  # no token has that much to gain
    np.save(tmp_path / "prices.npy", prices)
    result = route("--logits", tmp_path / "a.npy", "--k", K, "--open-price", tmp_path / "prices.npy")
    for batch in result["batches"]:
        assert 7 not in np.array(batch["plan"]["ids"])
        assert batch["report"]["changed_tokens"] > 0


@pytest.mark.parametrize(
    "array, named",
    [
        (np.zeros((4, 32), dtype=">f4"), b"big-endian"),
        (np.zeros((4, 32), order="F"), b"Fortran"),
        (np.zeros((4, 32), dtype=np.int64), b"<i8"),
        (np.zeros((1, 1, 4, 32)), b"4 dimensions"),
        (np.zeros(4, dtype=[("a", "<f4"), ("b", "<f4")]), b"named fields"),
        (np.full((4, 32), np.nan), b"batch 0, token 0, expert 0 is nan"),
    ],
)
def test_refusals(tmp_path, array, named):
    np.save(tmp_path / "a.npy", array)
    done = run("--logits", tmp_path / "a.npy", "--k", K)
    assert done.returncode == 2 and done.stdout == b""
    assert named in done.stderr and done.stderr.count(b"\n") == 1
