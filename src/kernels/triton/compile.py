#!/usr/bin/env python3
"""Compiles this folder's Triton kernels ahead of time. Needs no GPU, and of Python's packages only triton.

    compile.py --out FOLDER [--archs 80,90] [--only NAME]

Writes to FOLDER a cubin for each specialisation and compute capability, manifest.json with what a launch has to know
of it, and built_in_kernels.cpp, by which the program carries them all. The same sources give the same bytes. Exit
status 2 with one line where Triton is missing or of another version.
"""

import argparse
import importlib
import importlib.util
import json
import os
import re
import sys
import tempfile
import zlib
from pathlib import Path

HERE = Path(__file__).resolve().parent
TRITON_VERSION = "3.6.0"  # compiled_kernels.h says the same: it knows what this version hides
HIDDEN_POINTERS = 2  # global and profile scratch memory, behind a kernel's own parameters
LETTERS = {"u64": "p", "u32": "i", "b32": "i", "s32": "i", "f32": "f"}


def fail(text: str) -> None:
    print(f"compile.py: {text}", file=sys.stderr)
    raise SystemExit(2)


def import_triton() -> None:
    os.environ["TRITON_DISABLE_LINE_INFO"] = "1"  # line tables hold paths
    os.environ.pop("TRITON_INTERPRET", None)
    remedy = f"install triton=={TRITON_VERSION} for {sys.executable}"
    try:
        import triton
    except ImportError as error:
        fail(f"Triton can't be imported ({error}): {remedy}")
    if triton.__version__ != TRITON_VERSION:
        fail(f"Triton {triton.__version__} is installed, and the program launches kernels of {TRITON_VERSION}: {remedy}")


def load_specialisations():
    """The module of that name, as part of a package that isn't called triton."""
    sys.dont_write_bytecode = True
    spec = importlib.util.spec_from_file_location("kernels", HERE / "__init__.py", submodule_search_locations=[str(HERE)])
    sys.modules["kernels"] = package = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(package)
    return importlib.import_module("kernels.specialisations")


def sources_crc32() -> str:
    crc = 0
    for path in sorted(HERE.glob("*.py")):
        crc = zlib.crc32(path.name.encode() + b"\0" + path.read_bytes(), crc)
    return f"{crc:08x}"


def parameters_of(ptx: str, types: list[str], name: str) -> str:
    """The letters of a kernel's own parameters; 64-bit integers, which PTX doesn't tell from pointers, are l."""
    entry = re.search(r"\.entry\s+\w+\s*\((.*?)\)", ptx, re.S).group(1)
    letters = "".join(LETTERS[kind] for kind in re.findall(r"\.param\s+\.(\w+)", entry))
    own, hidden = letters[:-HIDDEN_POINTERS], letters[-HIDDEN_POINTERS:]
    if hidden != "p" * HIDDEN_POINTERS or len(own) != len(types):
        raise RuntimeError(f"{name}: parameters {letters} are not {len(types)} and {HIDDEN_POINTERS} hidden pointers")
    return "".join("l" if kind == "i64" else letter for kind, letter in zip(types, own))


def compile_one(module, of, arch: int) -> tuple[bytes, dict]:
    compiled = module.compile(of, arch)
    metadata = compiled.metadata
    if metadata.global_scratch_size or metadata.profile_scratch_size:
        raise RuntimeError(f"{of.name}: needs scratch memory, which the program does not give")
    types = [of.types[name] for name in of.function.arg_names if name in of.types]
    cubin = compiled.asm["cubin"]
    return cubin, {
        "name": of.name, "arch": arch, "entry": metadata.name,
        "parameters": parameters_of(compiled.asm["ptx"], types, of.name), "hidden_pointers": HIDDEN_POINTERS,
        "warps": metadata.num_warps, "shared_bytes": metadata.shared,
        "constants": {name: int(value) for name, value in of.constants.items()},
        "file": f"{of.name}.sm_{arch}.cubin", "crc32": f"{zlib.crc32(cubin):08x}",
    }  # fmt: skip


CPP = """// Written by src/kernels/triton/compile.py: the cubins beside this file, and how they are launched.
#include "kernels/triton/compiled_kernels.h"

%s
namespace thermoe::triton {

const KernelSet& built_in_kernels() {
  static const KernelSet set = [] {
    KernelSet s;
    s.triton_version = "%s";
    s.sources_crc32 = "%s";
%s    return s;
  }();
  return set;
}

}  // namespace thermoe::triton
"""


def cpp_of(manifest: dict, folder: Path) -> str:
    """The generated source: cubins by .incbin, so that they are neither text nor compiled."""
    blobs, pushes = "", ""
    for i, k in enumerate(manifest["kernels"]):
        symbol = f"thermoe_triton_cubin_{i}"
        blobs += (f'__asm__(".section .rodata\\n.balign 16\\n{symbol}:\\n.incbin \\"{folder / k["file"]}\\"\\n"\n'
                  f'        "{symbol}_end:\\n.previous\\n");\n'
                  f'extern "C" const char {symbol}[], {symbol}_end[];\n')
        constants = ", ".join(f'{{"{name}", {value}}}' for name, value in k["constants"].items())
        pushes += (f'    s.kernels.push_back({{"{k["name"]}", "{k["entry"]}", "{k["parameters"]}",\n'
                   f'                         {k["hidden_pointers"]}, {k["arch"]}, {k["warps"]}, {k["shared_bytes"]},\n'
                   f'                         {{{constants}}},\n'
                   f'                         std::string({symbol}, {symbol}_end)}});\n')
    return CPP % (blobs, manifest["triton_version"], manifest["sources_crc32"], pushes)


def write(path: Path, content: bytes) -> None:
    """In one step, and only where it changes: nothing is compiled again for nothing."""
    if path.exists() and path.read_bytes() == content:
        return
    part = path.with_suffix(path.suffix + ".part")
    part.write_bytes(content)
    part.replace(path)


def compile_all(folder: Path, archs: list[int], only: str) -> dict:
    module = load_specialisations()
    kernels = []
    for arch in archs:
        for of in module.specialisations(arch):
            if not of.name.startswith(only):
                continue
            cubin, facts = compile_one(module, of, arch)
            write(folder / facts["file"], cubin)
            kernels.append(facts)
            print(f"{facts['file']:44} {len(cubin):7} bytes, {facts['shared_bytes']:6} shared", flush=True)
    return {"schema": "thermoe-triton-kernels", "version": 1, "triton_version": TRITON_VERSION,
            "sources_crc32": sources_crc32(), "kernels": kernels}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=Path, required=True, metavar="FOLDER")
    parser.add_argument("--archs", default="80,90", help="compute capabilities times ten (80,90)")
    parser.add_argument("--only", default="", metavar="NAME", help="specialisations whose name begins so")
    options = parser.parse_args()
    import_triton()
    folder = options.out.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as cache:  # what an earlier run left says nothing of these sources
        os.environ["TRITON_CACHE_DIR"] = cache
        manifest = compile_all(folder, [int(arch) for arch in options.archs.split(",")], options.only)
    write(folder / "built_in_kernels.cpp", cpp_of(manifest, folder).encode())
    write(folder / "manifest.json", (json.dumps(manifest, indent=1) + "\n").encode())


if __name__ == "__main__":
    main()
