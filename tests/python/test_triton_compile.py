"""Every specialisation compiles for sm_80 and sm_90, ahead of time and without a GPU or torch, in a process of its own
that doesn't interpret."""

import json
import os
import pathlib
import subprocess
import sys

import pytest

FOLDER = pathlib.Path(__file__).resolve().parents[2] / "src" / "kernels" / "triton"
SHARED_BYTES = {80: 163 * 1024, 90: 227 * 1024}  # that one block may have
TWICE = ("gate_up_int8_16", "down_bf16_64", "combine", "pack_plan", "route_128", "dequantize_and_unpack")

SCRIPT = """
import hashlib, importlib, importlib.util, json, sys
folder, architecture, names = sys.argv[1], int(sys.argv[2]), sys.argv[3:]
spec = importlib.util.spec_from_file_location("kernels", folder + "/__init__.py", submodule_search_locations=[folder])
sys.modules["kernels"] = package = importlib.util.module_from_spec(spec)
spec.loader.exec_module(package)
all = importlib.import_module("kernels.specialisations")
found = {}
for one in all.specialisations(architecture):
    if names and one.name not in names:
        continue
    kernel = all.compile(one, architecture)
    cubin, ptx = kernel.asm["cubin"], kernel.asm["ptx"]
    found[one.name] = {
        "magic": cubin[:4].hex(), "hash": hashlib.sha256(cubin).hexdigest(), "shared": kernel.metadata.shared,
        "symbol": kernel.metadata.name, "scratch": kernel.metadata.global_scratch_size,
        "path": folder.encode() in cubin, "local": ".local" in ptx, "wide": "cp.async.cg.shared.global" in ptx,
    }
assert "torch" not in sys.modules
print(json.dumps(found))
"""


def compiled(cache, architecture, *names):
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    environment |= {"TRITON_CACHE_DIR": str(cache), "TRITON_DISABLE_LINE_INFO": "1"}
    done = subprocess.run([sys.executable, "-c", SCRIPT, str(FOLDER), str(architecture), *names], env=environment,
                          capture_output=True, text=True)  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout)


@pytest.mark.parametrize("architecture", [80, 90])
def test_everything_compiles(tmp_path, architecture):
    found = compiled(tmp_path / "first", architecture)
    assert len(found) == 22
    for name, kernel in found.items():
        assert kernel["magic"] == "7f454c46", name  # ELF
        assert kernel["scratch"] == 0, name
        assert kernel["shared"] <= SHARED_BYTES[architecture], name
        assert not kernel["path"], f"{name} names the folder that it was compiled in"
        assert not kernel["local"], f"{name} keeps something in local memory"
        if name.startswith(("gate_up", "down")):
            assert kernel["wide"], f"{name} doesn't copy 16 bytes a thread ahead"
    again = compiled(tmp_path / "second", architecture, *TWICE)
    assert {name: found[name]["hash"] for name in TWICE} == {name: kernel["hash"] for name, kernel in again.items()}
