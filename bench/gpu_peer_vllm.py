"""vLLM's fused_moe.py out of its wheel, alone (bench/fetch_peers.sh).

As a whole vLLM wouldn't import where only PyTorch is: what this file imports besides Triton is replaced by names that
do nothing. Its kernels are launched by its own launch code.
"""

import concurrent.futures
import importlib.abc
import importlib.machinery
import importlib.util
import json
import os
import pathlib
import sys

import torch
import triton
import triton.language as tl
from triton.runtime import _async_compile


class Absent:
    """What a name stands for that vLLM's module imports and our launches don't need. Calls answer no."""

    def __getattr__(self, name):
        if name.startswith("__"):
            raise AttributeError(name)
        return Absent()

    def __call__(self, *_, **__):
        return False

    def __bool__(self):
        return False

    def __or__(self, _):
        return self

    __ror__ = __or__


class AbsentFinder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Imports any vllm module as one full of absent names, with triton and tl, which are real."""

    def find_spec(self, name, _path=None, _target=None):
        return importlib.machinery.ModuleSpec(name, self, is_package=True) if name.split(".")[0] == "vllm" else None

    def create_module(self, _spec):
        return None

    def exec_module(self, module):
        module.triton, module.tl = triton, tl
        module.__getattr__ = Absent().__getattr__


def align_in_torch(ids, block, experts):
    """What vLLM's moe_align_block_size writes: slots by expert, padded to blocks; blocks' experts; how many."""
    flat = ids.flatten().long()
    slots = flat.numel()
    size = min(slots * block, slots + experts * (block - 1)) if slots < experts else slots + experts * (block - 1)
    counts = torch.zeros(experts, dtype=torch.long, device=ids.device).scatter_add_(0, flat, torch.ones_like(flat))
    ends = ((counts + block - 1) // block * block).cumsum(0)
    by_expert, order = torch.sort(flat, stable=True)
    first = ends - (counts + block - 1) // block * block - (counts.cumsum(0) - counts)
    at = first[by_expert] + torch.arange(slots, device=ids.device)
    sorted_ids = torch.full((size,), slots, dtype=torch.int32, device=ids.device)
    sorted_ids.scatter_(0, at, order.int())
    begins = torch.arange(0, size, block, device=ids.device)
    expert_ids = torch.searchsorted(ends, begins, right=True).clamp_(max=experts - 1).int()
    return sorted_ids, expert_ids, ends[-1:].int()


def align_in_vllm(ids, block, experts):
    slots = ids.numel()
    size = min(slots * block, slots + experts * (block - 1)) if slots < experts else slots + experts * (block - 1)
    sorted_ids, expert_ids, padded = (torch.empty(n, dtype=torch.int32, device=ids.device)
                                      for n in (size, triton.cdiv(size, block), 1))
    torch.ops._moe_C.moe_align_block_size(ids, experts, block, sorted_ids, expert_ids, padded, None)
    return sorted_ids, expert_ids, padded


class Vllm:
    """vLLM's fused_moe.py from the folder, and its compiled operations if they lie there (native)."""

    def __init__(self, folder):
        self.folder = pathlib.Path(folder)
        sys.meta_path.insert(0, AbsentFinder())
        spec = importlib.util.spec_from_file_location("vllm_fused_moe", self.folder / "fused_moe.py")
        self.module = importlib.util.module_from_spec(spec)
        sys.modules[spec.name] = self.module
        spec.loader.exec_module(self.module)
        self.version = (self.folder / "version").read_text().strip()
        libraries = list(self.folder.glob("_moe_C*.so")) if torch.cuda.is_available() else []
        self.native = bool(libraries)
        if self.native:
            torch.ops.load_library(str(libraries[0]))
        self.align = align_in_vllm if self.native else align_in_torch
        self.module.moe_align_block_size = lambda ids, block, experts, *_, **__: self.align(ids, block, experts)

    def tuned(self, shape):
        """The configurations shipped for this shape by token count, for H100 or else H200 (same SMs), and the file."""
        for device in ("NVIDIA_H100_80GB_HBM3", "NVIDIA_H200"):
            path = self.folder / "configs" / f"E={shape.experts},N={shape.intermediate},device_name={device}.json"
            if path.exists():
                configs = json.loads(path.read_text())
                configs.pop("triton_version", None)
                return {int(tokens): config for tokens, config in configs.items()}, path.name
        return {}, None

    def compile(self, launches):
        """Compiles the kernels of these launches, many at a time, and runs none. A failure shows when it's launched."""
        kernels = {name: getattr(self.module, name) for name in ("fused_moe_kernel", "fused_moe_kernel_gptq_awq")}
        for name, kernel in kernels.items():
            setattr(self.module, name, CompileOnly(kernel))
        try:
            with concurrent.futures.ThreadPoolExecutor(min(32, os.cpu_count())) as pool:
                with _async_compile.AsyncCompileMode(pool, ignore_errors=True):
                    for launch in launches:
                        launch()
        finally:
            for name, kernel in kernels.items():
                setattr(self.module, name, kernel)


class CompileOnly:
    def __init__(self, kernel):
        self.kernel = kernel

    def __getitem__(self, grid):
        return lambda *args, **kwargs: self.kernel.warmup(*args, grid=grid, **kwargs)
