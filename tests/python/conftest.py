"""Triton kernels are tested in Triton's interpreter, which has to be chosen before triton is imported; the package is the
build's, unless PYTHONPATH names another."""

import importlib.util
import os
import pathlib
import sys

os.environ.setdefault("TRITON_INTERPRET", "1")
if importlib.util.find_spec("thermoe") is None:
    build = os.environ.get("THERMOE_BUILD_DIR", pathlib.Path(__file__).resolve().parents[2] / "build")
    sys.path.insert(0, str(pathlib.Path(build) / "python"))
