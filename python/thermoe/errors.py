"""Errors: the kinds of thermoe::Error, with the same words."""


class Error(Exception):
    """Base of every error of the library. Itself raised only for a defect of thermoe's."""


class InvalidArgument(Error, ValueError):
    """A value is outside the contract: a size, a range, a NaN."""


class IoError(Error, OSError):
    """A file is missing, unreadable, or not what it claims to be; the words begin with its path."""


class CudaError(Error, RuntimeError):
    """A CUDA call failed."""


class NoCuda(CudaError):
    """This build has no CUDA code."""


class NvmlError(Error, RuntimeError):
    """NVIDIA's management library is absent, too old, or refused a call."""


class ProfileMiss(Error, LookupError):
    """No profile covers what was asked; the words list what is covered."""
