"""compile.py: what it writes, that the same sources give the same bytes, and what it refuses. In processes of their own,
which don't interpret; the whole list is the build's, where it has Triton."""

import json
import os
import pathlib
import re
import subprocess
import sys
import zlib

import pytest

FOLDER = pathlib.Path(__file__).resolve().parents[2] / "src" / "kernels" / "triton"
SHARED_BYTES = {80: 163 * 1024, 90: 227 * 1024}  # that one block may have
SOME = ("gate_up_int4_16", "down_bf16_64", "pack_plan")


def run_compile(*arguments, **environment):
    kept = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    return subprocess.run([sys.executable, str(FOLDER / "compile.py"), *map(str, arguments)], env=kept | environment,
                          capture_output=True, text=True)  # fmt: skip


def compile_some(folder):
    cubins = {}
    for name in SOME:
        done = run_compile("--out", folder, "--archs", "90", "--only", name)
        assert done.returncode == 0, done.stderr[-3000:]
        cubins[name] = (folder / f"{name}.sm_90.cubin").read_bytes()
    return cubins


@pytest.fixture(scope="module")
def first(tmp_path_factory):
    return compile_some(tmp_path_factory.mktemp("first"))


@pytest.fixture(scope="module")
def built():
    """The build's folder and manifest."""
    folder = pathlib.Path(os.environ.get("THERMOE_BUILD_DIR", "build")) / "triton"
    if not (folder / "manifest.json").exists():
        pytest.skip("this build has no Triton kernels")
    return folder, json.loads((folder / "manifest.json").read_text())


def test_the_same_sources_give_the_same_bytes(first, tmp_path):
    assert compile_some(tmp_path) == first
    for name, cubin in first.items():
        assert cubin[:4] == b"\x7fELF", name
        assert str(FOLDER).encode() not in cubin, f"{name} names the folder that it was compiled in"


def test_the_builds_are_of_these_sources(built, first):
    folder, manifest = built
    crc = 0
    for path in sorted(FOLDER.glob("*.py")):
        crc = zlib.crc32(path.name.encode() + b"\0" + path.read_bytes(), crc)
    assert manifest["sources_crc32"] == f"{crc:08x}", "build again"
    for name, cubin in first.items():
        assert (folder / f"{name}.sm_90.cubin").read_bytes() == cubin, name


def test_every_specialisation_fits_its_architecture(built):
    import triton

    folder, manifest = built
    cuobjdump = pathlib.Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
    names = {arch: {k["name"] for k in manifest["kernels"] if k["arch"] == arch} for arch in (80, 90)}
    assert len(names[80]) == 22 and names[80] == names[90]
    for kernel in manifest["kernels"]:
        cubin = folder / kernel["file"]
        assert f"{zlib.crc32(cubin.read_bytes()):08x}" == kernel["crc32"]
        assert kernel["shared_bytes"] <= SHARED_BYTES[kernel["arch"]], kernel["file"]
        usage = subprocess.run([cuobjdump, "--dump-resource-usage", cubin], capture_output=True, text=True, check=True)
        stack, local = re.search(r"STACK:(\d+).*?LOCAL:(\d+)", usage.stdout).groups()
        assert (stack, local) == ("0", "0"), f"{kernel['file']} spills registers"


def test_another_triton_is_refused(tmp_path):
    (tmp_path / "triton").mkdir()
    (tmp_path / "triton" / "__init__.py").write_text('__version__ = "9.9.0"\n')
    done = run_compile("--out", tmp_path / "out", PYTHONPATH=str(tmp_path))
    assert done.returncode == 2
    assert "Triton 9.9.0" in done.stderr and "install triton==" in done.stderr
    assert done.stderr.count("\n") == 1
    (tmp_path / "triton" / "__init__.py").write_text("raise ImportError('none here')\n")
    done = run_compile("--out", tmp_path / "out", PYTHONPATH=str(tmp_path))
    assert done.returncode == 2 and "none here" in done.stderr
