"""The shipped kernel profiles, and one that the program writes, against the published JSON schema."""
import copy
import json
import os
import pathlib
import subprocess

import jsonschema
import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
PROFILES = ROOT / "data" / "profiles"
SCHEMA = json.loads((ROOT / "docs" / "kernel-profile.schema.json").read_text())
SHIPPED = sorted(p for p in PROFILES.glob("*.json") if "-power" not in p.name)
COLUMNS = ("framework,version,device,op_name,kernel_source,moe_dtype,num_tokens,hidden_size,inter_size,topk,"
           "num_experts,moe_tp_size,moe_ep_size,distribution,latency,power,power_limit")


def validator():
    jsonschema.Draft202012Validator.check_schema(SCHEMA)
    return jsonschema.Draft202012Validator(SCHEMA)


def test_there_are_profiles():
    assert len(SHIPPED) >= 5


@pytest.mark.parametrize("path", SHIPPED, ids=lambda p: p.stem)
def test_shipped_profiles_follow_the_schema(path):
    profile = json.loads(path.read_text())
    validator().validate(profile)
    for kernel in profile["kernels"]:
        assert kernel["tokens"] == sorted(set(kernel["tokens"]))
        for curve in kernel["curves"]:
            assert len(curve["latency_us"]) == len(kernel["tokens"])


def test_a_fitted_profile_follows_it(tmp_path):
    rows = [COLUMNS]
    for inter in (256, 512, 1024):
        for tokens in (1, 4, 16, 64):
            rows.append(f"made,1,a device,moe,a kernel,bfloat16,{tokens},1024,{inter},2,8,1,1,balanced,"
                        f"{0.02 + 1e-6 * inter * min(2 * tokens, 8) + 1e-7 * inter * tokens},120.5,300")
    table, out = tmp_path / "table.csv", tmp_path / "profile.json"
    table.write_text("\n".join(rows) + "\n")
    subprocess.run([os.environ["THERMOE_PROGRAM"], "fit", "--csv", table, "--out", out, "--power-profile",
                    PROFILES / "h100-sxm-power.json"], check=True, capture_output=True)
    validator().validate(json.loads(out.read_text()))


def test_a_calibrated_profile_follows_it(tmp_path):
    out = tmp_path / "profile.json"
    subprocess.run([os.environ["THERMOE_PROGRAM"], "calibrate", "--device", "cpu", "--shapes", "64x32e8k2,64x64",
                    "--tokens", "1,4", "--budget-s", "0.2", "--out", out], check=True, capture_output=True)
    validator().validate(json.loads(out.read_text()))


def test_the_schema_refuses_damage():
    good = json.loads(SHIPPED[0].read_text())
    damaged = [copy.deepcopy(good) for _ in range(3)]
    damaged[0]["kernels"][0]["curves"][0]["latency_us"][0] = -1
    damaged[1]["version"] = 2
    del damaged[2]["kernels"][0]["roofline"]["launch_us"]
    for profile in damaged:
        assert not validator().is_valid(profile)
