"""What the build compiles: kernels, types of their arguments, constants, block sizes.

To load these modules without torch, from FOLDER, a string (any name will do for the package):

    start = FOLDER + "/__init__.py"
    spec = importlib.util.spec_from_file_location("kernels", start, submodule_search_locations=[FOLDER])
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
        return ExpertShape(16, 64, 64 if form == 0 else 128, 4, 3 if small else 4)
    if form != 0 or block_m == 64:
        return ExpertShape(64, 32 if form == 1 and small else 64, 64, 4, 3 if small else 4)
    return ExpertShape(128, 64 if small else 128, 64, 8, 3 if small else 4)


def route_bound(count: int, priced: bool) -> int:
    """BOUND of route_tokens for so many experts (priced: instances)."""
    return 128 if count <= 128 else 1024 if priced else 512


def route_warps(bound: int) -> int:
    return 1 if bound == 128 else 4


@dataclasses.dataclass(frozen=True)
class Specialisation:
    """One cubin: arguments are those of `function` that aren't constants, in its order.

    types: Triton's, by argument. aligned: arguments that are divisible by 16 (pointers: bytes). fused: whether products
    and sums may be contracted."""

    name: str
    function: Any
    types: dict[str, str]
    aligned: tuple[str, ...]
    constants: dict[str, int]
    num_warps: int
    num_stages: int = 1
    fused: bool = True


EXPERT_TYPES = {
    "experts": "*i64", "x": "*bf16", "inner": "*bf16", "part": "*bf16", "offsets": "*i32", "packed": "*i32",
    "pairs": "i32", "k": "i32", "hidden": "i32", "inter": "i32", "instances": "i32",
}  # fmt: skip
ROUTE_TYPES = {
    "scores": "*fp32", "bias": "*fp32", "first": "*i32", "expert": "*i32", "slope": "*fp32", "marginal": "*fp32",
    "scale": "*fp32", "kept_best": "*fp64", "kept_instance": "*fp64", "ids": "*i32", "instances": "*i32",
    "weights": "*fp32", "changed": "*u8", "bad": "*i32", "row_stride": "i64", "experts": "i32", "count": "i32",
    "k": "i32", "gate": "i32", "power_halves": "i32", "flags": "i32",
}  # fmt: skip


def _experts(architecture: int) -> list[Specialisation]:
    found = []
    for function in (experts.gate_up, experts.down):
        types = {name: EXPERT_TYPES[name] for name in function.arg_names if name in EXPERT_TYPES}
        aligned = tuple(name for name in ("x", "inner", "part", "hidden", "inter") if name in types)
        for form, form_name in enumerate(FORM_NAMES):
            for block_m in BLOCKS_M if form == 0 else BLOCKS_M[:2]:
                shape = expert_shape(form, block_m, architecture)
                constants = {"FORM": form, "I_BOUND": I_BOUND, "BLOCK_M": shape.block_m, "UNITS": shape.units,
                             "COLUMNS": shape.columns}
                found.append(Specialisation(f"{function.__name__}_{form_name}_{block_m}", function, types, aligned,
                                            constants, shape.num_warps, shape.num_stages))
    combine_types = {"part": "*bf16", "plan_instances": "*i32", "plan_weights": "*fp32", "out": "*bf16", "k": "i32",
                     "hidden": "i32"}
    found.append(Specialisation("combine", experts.combine, combine_types, ("part", "out", "hidden"),
                                {"COLUMNS": COMBINE_COLUMNS}, 4))
    return found


def _routing() -> list[Specialisation]:
    found = []
    for name, priced, bound in (("route_128", 0, 128), ("route_512", 0, 512), ("route_priced_128", 1, 128),
                                ("route_priced_1024", 1, 1024)):
        found.append(Specialisation(name, routing.route_tokens, ROUTE_TYPES, (), {"PRICED": priced, "BOUND": bound},
                                    route_warps(bound), fused=False))
    pack_types = {"plan_instances": "*i32", "offsets": "*i32", "packed": "*i32", "pairs": "i32", "instances": "i32"}
    found.append(Specialisation("pack_plan", routing.pack_plan, pack_types, (), {"BLOCK": PACK_BLOCK}, 4))
    report_types = {"bad": "*i32", "changed": "*u8", "offsets": "*i32", "first": "*i32", "report": "*i32",
                    "tokens": "i32", "experts": "i32", "count": "i32", "flags": "i32"}
    found.append(Specialisation("route_report", routing.route_report, report_types, (), {"BLOCK": 1024}, 4))
    return found


def specialisations(architecture: int) -> list[Specialisation]:
    """What there is for sm_80 or sm_90: names are the same for both, tiles may differ."""
    unpack_types = {"experts": "*i64", "offsets": "*i32", "to": "*i64", "scratch": "*u8", "hidden": "i32",
                    "inter": "i32"}
    return [
        *_experts(architecture),
        Specialisation("dequantize_and_unpack", unpack.dequantize_and_unpack, unpack_types,
                       ("scratch", "hidden", "inter"), {"WORDS": UNPACK_WORDS}, 4),
        *_routing(),
    ]


def compile(specialisation: Specialisation, architecture: int) -> Any:
    """triton's CompiledKernel: `.asm["cubin"]`, `.metadata.name` (the symbol), `.shared`, `.num_warps`, ... A launch
    passes the arguments, then two pointers to scratch, which these kernels don't use: null."""
    names = specialisation.function.arg_names
    of = specialisation
    source = ASTSource(
        of.function,
        signature={name: of.types.get(name, "constexpr") for name in names},
        constexprs={(names.index(name),): value for name, value in of.constants.items()},
        attrs={(names.index(name),): [["tt.divisibility", 16]] for name in of.aligned},
    )
    options = {"num_warps": of.num_warps, "num_stages": of.num_stages, "enable_fp_fusion": of.fused}
    return triton.compile(source, target=GPUTarget("cuda", architecture, 32), options=options)
