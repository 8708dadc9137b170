"""What all functions ask of their tensors."""

import torch
import triton


def tensor(value: torch.Tensor, name: str, dtypes, shape: tuple, device: torch.device | None = None) -> None:
    """ValueError unless `value` is contiguous, of one of `dtypes` and of `shape` (None: any size), on `device`."""
    if not isinstance(value, torch.Tensor):
        raise ValueError(f"{name} has to be a tensor, not {type(value).__name__}")
    if value.dtype not in dtypes:
        raise ValueError(f"{name} is {value.dtype}: it has to be {' or '.join(str(d) for d in dtypes)}")
    fits = len(shape) == value.dim() and all(want in (None, have) for want, have in zip(shape, value.shape))
    if not fits:
        want = ", ".join("any" if size is None else str(size) for size in shape)
        raise ValueError(f"{name} has shape {list(value.shape)}: it has to be [{want}]")
    if not value.is_contiguous():
        raise ValueError(f"{name} has to be contiguous: call .contiguous()")
    if device is not None and value.device != device:
        raise ValueError(f"{name} is on {value.device}, other arguments on {device}")
    if not value.is_cuda and not triton.knobs.runtime.interpret:
        raise ValueError(
            f"{name} is on {value.device}: move it to a GPU, or set TRITON_INTERPRET=1 before triton is imported"
        )


def within(value: int, name: str, least: int, most: int) -> None:
    if not least <= value <= most:
        raise ValueError(f"{name} is {value}: it has to be {least} to {most}")


def multiple_of_32(value: int, name: str) -> None:
    if value < 32 or value % 32 != 0:
        raise ValueError(f"{name} is {value}: it has to be a multiple of 32")
