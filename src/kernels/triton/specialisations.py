"""What the build compiles: kernels, types of their arguments, constants, block sizes.

To load these modules without torch, from FOLDER (any name will do for the package):

    spec = importlib.util.spec_from_file_location("kernels", FOLDER / "__init__.py", submodule_search_locations=[FOLDER])
    sys.modules["kernels"] = package = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(package)
    specialisations = importlib.import_module("kernels.specialisations")

Each is compiled by compile(). TRITON_DISABLE_LINE_INFO=1 keeps paths out of the cubins, which then are the same bytes
wherever they are made.
"""

import dataclasses
from typing import Any

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from . import experts, routing, unpack

ARCHITECTURES = (80, 90)
BLOCKS_M = (16, 64, 128)
COMBINE_COLUMNS = 512
PACK_BLOCK = 1024
UNPACK_PROGRAMS = 16  # an instance
UNPACK_WORDS = 512
I_BOUND = 1024
FORM_NAMES = ("bf16", "int8", "int4")


@dataclasses.dataclass(frozen=True)
class ExpertShape:
    """A tile of gate_up and down: block_m pairs by `units` units of two rows, `columns` at a time."""

    block_m: int
    units: int
    columns: int
    num_warps: int
    num_stages: int


def expert_shape(form: int, block_m: int, architecture: int) -> ExpertShape:
    """Of BLOCKS_M; nested forms have no 128, whose tiles are better unpacked: they take 64."""
    small = architecture < 90
    if block_m == 16:
        return ExpertShape(16, 64, 128, 4, 3 if small else 4)
    if form != 0 or block_m == 64:
        return ExpertShape(64, 32 if form == 1 and small else 64, 64, 4, 3 if small else 4)
    return ExpertShape(128, 64 if small else 128, 64, 8, 3 if small else 4)


def route_bound(count: int, priced: bool) -> int:
    """BOUND of route_tokens for so many experts (priced: instances)."""
    return 128 if count <= 128 else 1024 if priced else 512


def route_warps(bound: int) -> int:
    return 1 if bound == 128 else 4
