"""Block sizes by a profile: one made of the shipped one, in which small tiles win at few tokens and large ones at many."""

import copy
import json
import pathlib

import pytest

thermoe = pytest.importorskip("thermoe")
from thermoe import triton as kernels  # noqa: E402

PROFILE = pathlib.Path(__file__).resolve().parents[2] / "data" / "profiles" / "h100-sxm-thermoe.json"
LAYER = dict(hidden_size=2048, expert_inter_size=768, experts=128, top_k=8)


@pytest.fixture
def profile(tmp_path):
    """A file: with tiles of 64 a layer takes 0.5 to 2 times as long as with 16, less the more tokens there are."""
    whole = json.loads(PROFILE.read_text())
    own = next(k for k in whole["kernels"] if k["kernel"] == "thermoe_cuda_experts_cold" and k["dtype"] == "bf16")
    whole["kernels"] = []
    for block_m in (16, 64):
        kernel = copy.deepcopy(own)
        kernel["kernel"] = f"thermoe_triton_m{block_m}_cold"
        for curve in kernel["curves"] if block_m == 64 else []:
            curve["latency_us"] = [us and us * (2 if t < 16 else 0.5) for t, us in zip(kernel["tokens"], curve["latency_us"])]
        whole["kernels"].append(kernel)
    for name in (whole["power_profile"], whole["linear_profile"]):
        (tmp_path / name).write_text((PROFILE.parent / name).read_text())
    file = tmp_path / "profile.json"
    file.write_text(json.dumps(whole))
    return file


def test_chooses_the_faster_tile(profile):
    costs = kernels.BlockCosts(profile, **LAYER)
    assert costs.choose(1) == costs.choose(4) == 16
    assert costs.choose(64) == costs.choose(256) == 64
    predicted = costs.predict(64)
    assert set(predicted) == {16, 64} and predicted[64] < predicted[16]


def test_a_profile_without_tritons_kernels_is_refused():
    with pytest.raises(thermoe.ProfileMiss, match="thermoe_cuda_experts_cold"):
        kernels.BlockCosts(PROFILE, **LAYER)
