"""C++ kernels that programs of the variant `kernels` call: found, loaded, and given to XLA.

The library comes from `make native` or from where GEMMA3_KERNELS says, never from a bundle.
"""

from __future__ import annotations

import ctypes
import functools
import os
from pathlib import Path

from .errors import UsageError

ENVIRONMENT = "GEMMA3_KERNELS"
"""Path of the library, or `none` to do without."""
LIBRARY = "libgemma3_kernels.so"
KERNEL_PLATFORM = "cpu"
"""The platform that kernels are for."""
_BUILT = Path(__file__).resolve().parent.parent / "build" / "native" / "lib" / LIBRARY


@functools.cache
def register_kernel(target: str) -> bool:
    """Give XLA a kernel, once for the life of the process; False when it is not here.

    Raises UsageError when GEMMA3_KERNELS names no library of kernels.
    """
    import jax  # here and not above: reading a bundle needs none

    library = _library(os.environ.get(ENVIRONMENT))
    handler = getattr(library, target, None)
    if handler is None:
        return False
    jax.ffi.register_ffi_target(target, jax.ffi.pycapsule(handler), platform=KERNEL_PLATFORM)
    return True


@functools.cache
def _library(named: str | None) -> ctypes.CDLL | None:
    if named == "none" or (named is None and not _BUILT.is_file()):
        return None
    path = named or str(_BUILT)
    try:
        return ctypes.CDLL(path)
    except OSError as error:
        raise UsageError(
            f"{path}: expected a library of kernels, got one that cannot be loaded ({error}); run "
            f"make native, or set {ENVIRONMENT}=none to do without"
        ) from error
