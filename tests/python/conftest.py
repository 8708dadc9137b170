"""Triton kernels are tested in Triton's interpreter, which has to be chosen before triton is imported."""

import os
import pathlib
import sys

os.environ.setdefault("TRITON_INTERPRET", "1")
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2] / "python"))
