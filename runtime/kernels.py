"""C++ kernels: found, loaded, and given to XLA, so that programs of the variant `kernels` run.

The library comes from `make native` or from where GEMMA3_KERNELS says, never from a bundle. Where
there is none the portable programs run, which give the same up to rounding.
"""

from __future__ import annotations

import ctypes
import functools
import os
from pathlib import Path

import jax

from ..artifacts.bundle import Bundle
from ..artifacts.errors import UsageError
from ..artifacts.manifest import KERNELS, Program

ENVIRONMENT = "GEMMA3_KERNELS"
"""Path of the library, or `none` to do without."""
LIBRARY = "libgemma3_kernels.so"
_BUILT = Path(__file__).resolve().parent.parent / "build" / "native" / "lib" / LIBRARY
_PLATFORM = "cpu"


def choose_variants(bundle: Bundle, mesh: str, platform: str) -> tuple[Program, ...]:
    """The program of each bucket: the one with kernels where the kernels are here.

    Raises UsageError when GEMMA3_KERNELS names no library of kernels.
    """
    chosen = {program.bucket: program for program in bundle.programs_for(mesh, platform)}
    if platform == _PLATFORM:
        for program in bundle.programs_for(mesh, platform, KERNELS):
            if all(map(_register, program.custom_calls)):
                chosen[program.bucket] = program
    return tuple(chosen.values())


@functools.cache
def _register(target: str) -> bool:
    """Give XLA a kernel, once for the life of the process; False when it is not here."""
    library = _library(os.environ.get(ENVIRONMENT))
    handler = getattr(library, target, None)
    if handler is None:
        return False
    jax.ffi.register_ffi_target(target, jax.ffi.pycapsule(handler), platform=_PLATFORM)
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
