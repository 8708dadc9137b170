"""Where the plug-in takes hold of vLLM: the factory of routers, the MoE layer, and what runs before a forward pass."""

import functools

import vllm
from packaging.version import Version

from ..errors import InvalidArgument
from . import rank, settings

VERSIONS = ">= 0.24.0, < 0.25"  # whose routers, runners and forward contexts these hooks know
_DONE = "_thermoe_plugin"


def check_version(version):
    """Raises InvalidArgument for a vLLM that the hooks below don't know."""
    try:
        known = Version("0.24.0") <= Version(version) < Version("0.25.0.dev0")
    except ValueError:
        known = False
    if not known:
        raise InvalidArgument(f"vLLM {version} is installed: thermoe's plug-in needs {VERSIONS}; install vllm==0.24.0, "
                              f"or unset the variables {settings.PREFIX}* to run without it")


def register():
    wanted = settings.from_environment()
    if wanted is None:
        return
    check_version(vllm.__version__)
    from vllm.model_executor.layers.fused_moe import layer
    from vllm.model_executor.layers.fused_moe.runner.moe_runner import MoERunner
    from vllm.platforms import current_platform

    if hasattr(layer.create_fused_moe_router, _DONE):  # vLLM may load plug-ins more than once in a process
        return
    rank.RANK.configure(wanted)
    layer.create_fused_moe_router = _planned(layer.create_fused_moe_router)
    MoERunner.__init__ = _placed(MoERunner.__init__)
    platform = type(current_platform)
    platform.set_additional_forward_context = classmethod(_announced(platform.set_additional_forward_context.__func__))


def _planned(create):
    """The factory, whose routers plan."""

    @functools.wraps(create)
    def create_fused_moe_router(*args, **kwargs):
        return rank.RANK.router(create(*args, **kwargs))

    setattr(create_fused_moe_router, _DONE, True)
    return create_fused_moe_router


def _placed(init):
    """MoERunner.__init__, which tells a router that plans whose experts it routes to."""

    @functools.wraps(init)
    def __init__(self, *args, **kwargs):
        init(self, *args, **kwargs)
        rank.RANK.place(self)

    return __init__


def _announced(context):
    """The platform's own context, made before each forward pass, of which the rank learns here."""

    @functools.wraps(context)
    def set_additional_forward_context(cls, *args, **kwargs):
        rank.RANK.begin_pass(kwargs.get("attn_metadata"))
        return context(cls, *args, **kwargs)

    return set_additional_forward_context
