"""What becomes of a bundle's programs with C++ kernels on this machine."""

from __future__ import annotations

from collections.abc import Iterable

from ...artifacts.bundle import Bundle
from ...artifacts.kernels import (
    ENVIRONMENT,
    find_library,
    kernel_problem,
    kernels_declined,
    library_version,
)
from ..loading.variants import INSTEAD, kernel_programs, targets_of
from .preflight import Check, Status


def check_kernels(bundle: Bundle, meshes: Iterable[str], platforms: Iterable[str]) -> Check | None:
    """What becomes of the programs with kernels of these meshes and platforms; None without any.

    Raises UsageError when GEMMA3_KERNELS names no library of kernels.
    """
    names = tuple(platforms)
    calling = [p for mesh in meshes for name in names for p in kernel_programs(bundle, mesh, name)]
    if not calling:
        return None
    if kernels_declined():
        return Check("kernels", Status.OK, f"{ENVIRONMENT} is none: {INSTEAD}")
    if problem := kernel_problem(targets_of(calling)):
        return Check("kernels", Status.WARNING, f"{problem}: {INSTEAD}")
    library = find_library()
    assert library is not None  # or there were a problem
    version = library_version(library) or "unknown"
    detail = f"{len(calling)} programs call those of {library}, version {version}"
    return Check("kernels", Status.OK, detail)
