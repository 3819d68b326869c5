"""C++ kernels that programs of the variant `kernels` call: found, loaded, and given to XLA.

The library comes from `make native`, from the installed wheel or from where GEMMA3_KERNELS says,
never from a bundle, and of what a bundle names only the targets below are looked up in it: XLA
calls a handler while it is registered, so whoever chose the name would choose what is called.
"""

from __future__ import annotations

import ctypes
import functools
import os
import re
from collections.abc import Iterable
from pathlib import Path

from .errors import UsageError
from .native import native_prefix

TARGETS = (
    "gemma3_bfloat16_linear",
    "gemma3_cached_attention",
    "gemma3_int4_linear",
    "gemma3_int8_linear",
)
"""The targets of XLA's FFI that this version knows, and all that is ever looked up. The exporter
writes these (model/lowering/forms.py), and runtime/native/src/kernels.cc has the same table."""
TARGET_NAME = re.compile(r"gemma3_[a-z0-9_]{1,57}")
"""What a manifest may name. Other targets than the above are of another version of the project:
their programs are left for the portable ones."""
ENVIRONMENT = "GEMMA3_KERNELS"
"""Path of the library, or `none` to do without."""
LIBRARY = "libgemma3_kernels.so"
KERNEL_PLATFORM = "cpu"
"""The platform that kernels are for."""
_VERSION = "gemma3_kernels_version"
_NONE = "none"
_LINK_MAP = 2  # RTLD_DI_LINKMAP of dlinfo and RTLD_DL_LINKMAP of dladdr1


def kernels_declined() -> bool:
    """Whether the user wants no kernels."""
    return os.environ.get(ENVIRONMENT) == _NONE


def find_library() -> Path | None:
    """Where the library of kernels is, or would be if it was named; None where there is none."""
    named = os.environ.get(ENVIRONMENT)
    if named:
        return None if named == _NONE else Path(named).absolute()
    prefix = native_prefix()
    library = None if prefix is None else prefix / "lib" / LIBRARY
    return library if library is not None and library.is_file() else None


def library_version(library: Path) -> str | None:
    """The version of the project that a library of kernels says it is of.

    Raises UsageError when it cannot be loaded.
    """
    version = getattr(_load(library), _VERSION, None)
    if version is None:
        return None
    version.restype = ctypes.c_char_p
    return version().decode(errors="replace")


def kernel_problem(targets: Iterable[str]) -> str | None:
    """Why programs that call `targets` cannot all be taken here; None when they can.

    Raises UsageError when GEMMA3_KERNELS names no library of kernels.
    """
    library = find_library()
    if library is None:
        return (
            f"the bundle has programs with C++ kernels and there is no {LIBRARY} here (run make "
            f"native, install a platform wheel, or set {ENVIRONMENT} to its path or to {_NONE})"
        )
    problem = None
    for target in sorted(set(targets)):
        if target not in TARGETS:
            problem = problem or (
                f"the bundle calls {target}, a kernel of another version (export it again with "
                "this one)"
            )
        elif _handler(library, target) is None:
            problem = f"{library}: has no kernel {target}"
    return problem


@functools.cache
def register_kernel(target: str) -> bool:
    """Give XLA a kernel, once for the life of the process; False when it is not here.

    Raises UsageError when GEMMA3_KERNELS names no library of kernels.
    """
    import jax  # here and not above: reading a bundle needs none

    library = find_library()
    handler = _handler(library, target) if library is not None and target in TARGETS else None
    if handler is None:
        return False
    jax.ffi.register_ffi_target(target, jax.ffi.pycapsule(handler), platform=KERNEL_PLATFORM)
    return True


def _handler(path: Path, target: str):
    """The function of this very library, None when it has none.

    A look-up goes through what the library needs as well, the C library among it.
    """
    library = _load(path)
    handler = getattr(library, target, None)
    if handler is None:
        return None
    info, owner, loaded = (ctypes.c_void_p * 4)(), ctypes.c_void_p(), ctypes.c_void_p()
    process = ctypes.CDLL(None)
    dlinfo, dladdr1 = (getattr(process, name, None) for name in ("dlinfo", "dladdr1"))
    if dlinfo is None or dladdr1 is None:  # not glibc: whose function it is cannot be told
        return None
    handle = ctypes.c_void_p(library._handle)
    address = ctypes.cast(handler, ctypes.c_void_p)
    if dlinfo(handle, _LINK_MAP, ctypes.byref(loaded)) != 0:
        return None
    if dladdr1(address, info, ctypes.byref(owner), _LINK_MAP) == 0:
        return None
    return handler if owner.value == loaded.value else None


@functools.cache
def _load(path: Path) -> ctypes.CDLL:
    try:
        return ctypes.CDLL(str(path))
    except OSError as error:
        raise UsageError(
            f"{path}: expected a library of kernels, got one that cannot be loaded ({error}); run "
            f"make native, or set {ENVIRONMENT}={_NONE} to do without"
        ) from error
