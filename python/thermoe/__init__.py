"""Hardware-aware routing for mixture-of-experts models.

Telemetry (Monitor) and measured costs (CostModel) become prices (Governor); at those a batch is
routed (Router) and its experts run (QuantizedExperts). Arrays of NumPy, torch, JAX, CuPy and whatever
else speaks DLPack are read and written where they are.
"""

import os
import pathlib
import typing

from .errors import CudaError, Error, InvalidArgument, IoError, NoCuda, NvmlError, ProfileMiss
from ._core import (
    CostEstimate,
    CostModel,
    CostSurrogate,
    Governor,
    HardwareState,
    Layout,
    Monitor,
    Multipliers,
    Plan,
    Prices,
    QuantizedExperts,
    Report,
    Router,
    has_cuda,
    version,
)

if typing.TYPE_CHECKING:
    from .hf import attach, detach

__version__ = version()

__all__ = [
    "CostEstimate",
    "CostModel",
    "CostSurrogate",
    "CudaError",
    "Error",
    "Governor",
    "HardwareState",
    "InvalidArgument",
    "IoError",
    "Layout",
    "Monitor",
    "Multipliers",
    "NoCuda",
    "NvmlError",
    "Plan",
    "Prices",
    "ProfileMiss",
    "QuantizedExperts",
    "Report",
    "Router",
    "has_cuda",
    "include_dir",
    "shipped",
    "version",
]


def _roots():
    if os.environ.get("THERMOE_HOME"):
        return [pathlib.Path(os.environ["THERMOE_HOME"])]
    package = pathlib.Path(__file__).resolve().parent
    return [package / "share" / "thermoe", package.parent.parent]  # a wheel's; a checkout's


def shipped(relative):
    """The path of a file or folder that comes with thermoe, such as "data/profiles/h100-sxm.json".

    Below $THERMOE_HOME where that is set. Raises IoError naming the places tried.
    """
    roots = _roots()
    for root in roots:
        if (root / relative).exists():
            return root / relative
    tried = " and ".join(str(root) for root in roots)
    raise IoError(f"{relative}: not found below {tried}: set THERMOE_HOME to a thermoe checkout")


def include_dir():
    """The folder that holds thermoe/c_api.h."""
    package = pathlib.Path(__file__).resolve().parent
    inside = package / "include"
    return inside if inside.exists() else package.parent.parent / "include"


def __getattr__(name):
    """attach and detach: only who asks for them imports torch and transformers (so they are not in __all__)."""
    if name not in ("attach", "detach"):
        raise AttributeError(f"module 'thermoe' has no attribute '{name}'")
    try:
        from . import hf
    except ModuleNotFoundError as error:
        missing = (error.name or "").split(".")[0]
        if missing not in ("torch", "transformers", "packaging"):
            raise
        raise ImportError(f"thermoe.{name} needs {missing}: pip install torch 'transformers>=5,<6'") from error
    return getattr(hf, name)
