"""Where a model routes: its mixture-of-experts layers, found by what they do and not by name."""

import dataclasses

import torch
import transformers
from packaging.version import Version

from ..errors import InvalidArgument

SUPPORTED = "Qwen3-MoE, OLMoE, Mixtral and whatever else takes the top-k of a softmax in a router module"
VERSIONS = ">= 5.0, < 6"
_PROBE_ROWS = 8


@dataclasses.dataclass
class Site:
    """One MoE layer."""

    name: str
    router: torch.nn.Module
    experts: torch.nn.Module
    count: int  # experts
    top_k: int
    renormalize: bool


def check_version():
    version = Version(transformers.__version__)
    if not Version("5.0.0.dev0") <= version < Version("6"):
        raise InvalidArgument(f"transformers {version} is installed: thermoe.attach needs {VERSIONS}")


def find_sites(model):
    """The MoE layers of a model, in the order in which they run.

    Raises InvalidArgument where there is none, or one that routes in a way that a plan can't stand for."""
    sites = []
    for name, block in model.named_modules():
        experts = getattr(block, "experts", None)
        if not isinstance(experts, torch.nn.Module):
            continue
        label = f"{name} ({type(block).__name__})"
        if not hasattr(experts, "_apply_gate") or not hasattr(experts, "config"):
            raise InvalidArgument(f"{label}: its experts have no experts interface: supported are {SUPPORTED}")
        routers = [m for m in block.children() if hasattr(m, "top_k") and hasattr(m, "weight") and m is not experts]
        if len(routers) != 1:
            raise InvalidArgument(f"{label}: has no router module with top_k and weight: supported are {SUPPORTED}")
        if getattr(experts, "_is_expert_parallel", False):
            raise InvalidArgument(f"{label}: its experts are spread over processes: load the model on one device")
        sites.append(_probed(label, name, routers[0], experts))
    if not sites:
        raise InvalidArgument(f"{type(model).__name__} has no mixture-of-experts layer: supported are {SUPPORTED}")
    return sites


@torch.no_grad()
def _probed(label, name, router, experts):
    """The router's site, if what it returns for some rows is the top-k of its logits' softmax."""
    count, width = router.weight.shape
    rows = torch.randn(_PROBE_ROWS, width, generator=torch.Generator().manual_seed(1))
    try:
        logits, weights, ids = router(rows.to(router.weight))
        top_k = ids.shape[1]
        shapes = logits.shape == (_PROBE_ROWS, count) and weights.shape == ids.shape == (_PROBE_ROWS, top_k)
    except (TypeError, ValueError, RuntimeError, IndexError) as error:
        raise InvalidArgument(f"{label}: {type(router).__name__} is no top-k router ({error}): supported are "
                              f"{SUPPORTED}") from error
    if not shapes:
        raise InvalidArgument(f"{label}: {type(router).__name__} does not return logits, weights and indices: "
                              f"supported are {SUPPORTED}")
    scores = torch.softmax(logits.float(), -1)
    best = torch.topk(scores, top_k, -1).values
    raw, mass = scores.gather(1, ids.long()), best.sum(-1, keepdim=True)
    for renormalize, want in ((True, raw / mass), (False, raw)):
        # 1 % is coarser than bfloat16's rounding of a weight, finer than any other rule
        if torch.allclose(raw.sum(-1), mass[:, 0], rtol=1e-3) and torch.allclose(weights.float(), want, rtol=1e-2):
            return Site(name, router, experts, count, top_k, renormalize)
    raise InvalidArgument(f"{label}: the weights of {type(router).__name__} are not the top {top_k} of its logits' "
                          f"softmax: supported are {SUPPORTED}")


def holder_of(model, sites):
    """The innermost module that is a model of its own and holds all MoE layers: it sees the masks."""
    routers = {id(site.router) for site in sites}
    holder = model
    for module in model.modules():
        if isinstance(module, transformers.PreTrainedModel) and routers <= {id(m) for m in module.modules()}:
            holder = module
    return holder
