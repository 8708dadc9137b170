"""scikit-build-core's backend, which fetches Triton as well where the build has nvcc: it compiles the Triton kernels into
the wheel."""

import os
import shutil

from scikit_build_core.build import *  # noqa: F403  (the backend's hooks)
from scikit_build_core.build import get_requires_for_build_wheel as _requirements

TRITON = "triton==3.6.0; sys_platform == 'linux'"  # as cmake/ThermoeOptions.cmake asks for


def get_requires_for_build_wheel(config_settings=None):
    has_cuda = shutil.which("nvcc") is not None or "CUDACXX" in os.environ
    return _requirements(config_settings) + ([TRITON] if has_cuda else [])
