"""Triton kernels of thermoe as functions of torch tensors: routing, packing, unpacking and grouped experts.

Where the kernels are: in one place, `src/kernels/triton`, a package of modules that import only triton and each
other, which the library also compiles ahead of time. In a checkout this package loads that folder as
`thermoe.triton.kernels`; an installed one has it copied to `thermoe/triton/kernels` and finds it there. Either way
`thermoe.triton.kernels.experts` and so on are importable, under that name only.

Under TRITON_INTERPRET=1, set before the first import of triton, everything runs on CPU tensors. Otherwise tensors have
to be on one CUDA device, and launches go to torch's current stream.
"""

from . import _kernels  # noqa: F401  (makes thermoe.triton.kernels)
from .costs import BlockCosts
from .grouped import choose_block_m, dequantize_and_unpack, grouped_experts
from .planning import Layout, Plan, check_report, pack_plan, route
from .tables import Expert, ExpertTable, Weight, bf16_expert, expert_table, nested_expert, to_fragment_order

__all__ = [
    "BlockCosts",
    "Expert",
    "ExpertTable",
    "Layout",
    "Plan",
    "Weight",
    "bf16_expert",
    "check_report",
    "choose_block_m",
    "dequantize_and_unpack",
    "expert_table",
    "grouped_experts",
    "nested_expert",
    "pack_plan",
    "route",
    "to_fragment_order",
]
