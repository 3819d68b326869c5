"""Which variant of each program runs: the one with C++ kernels where the kernels are here.

Where they are not the portable programs run, which give the same up to rounding.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable

from ...artifacts.bundle import Bundle
from ...artifacts.kernels import (
    ENVIRONMENT,
    KERNEL_PLATFORM,
    find_library,
    kernel_problem,
    kernels_declined,
    register_kernel,
)
from ...artifacts.manifest import KERNELS, Program
from ..checks.preflight import Check, Status

_LOG = logging.getLogger(__name__)
_INSTEAD = "portable programs are used"


def choose_variants(bundle: Bundle, mesh: str, platform: str) -> tuple[Program, ...]:
    """The program of each bucket: the one with kernels where the kernels are here.

    Logs a warning when there are such programs and not all can be taken. Raises UsageError when
    GEMMA3_KERNELS names no library of kernels.
    """
    chosen = {program.bucket: program for program in bundle.programs_for(mesh, platform)}
    calling = _calling(bundle, mesh, platform)
    if not calling or kernels_declined():
        return tuple(chosen.values())
    for program in calling:
        if all(map(register_kernel, program.custom_calls)):
            chosen[program.bucket] = program
    if problem := kernel_problem(_targets(calling)):
        _LOG.warning("%s: %s", problem, _INSTEAD)
    return tuple(chosen.values())


def check_kernels(bundle: Bundle, meshes: Iterable[str], platforms: Iterable[str]) -> Check | None:
    """What becomes of the programs with kernels of these meshes and platforms; None without any.

    Raises UsageError when GEMMA3_KERNELS names no library of kernels.
    """
    names = tuple(platforms)
    calling = [p for mesh in meshes for name in names for p in _calling(bundle, mesh, name)]
    if not calling:
        return None
    if kernels_declined():
        return Check("kernels", Status.OK, f"{ENVIRONMENT} is none: {_INSTEAD}")
    if problem := kernel_problem(_targets(calling)):
        return Check("kernels", Status.WARNING, f"{problem}: {_INSTEAD}")
    return Check("kernels", Status.OK, f"{len(calling)} programs call those of {find_library()}")


def _calling(bundle: Bundle, mesh: str, platform: str) -> list[Program]:
    """The programs of a mesh and platform that call kernels."""
    return [
        program
        for program in bundle.manifest.programs
        if (program.mesh, program.platform, program.variant) == (mesh, platform, KERNELS)
        and platform == KERNEL_PLATFORM
    ]


def _targets(programs: Iterable[Program]) -> set[str]:
    return {target for program in programs for target in program.custom_calls}
