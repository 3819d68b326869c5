"""Which variant of each program runs: the one with C++ kernels where the kernels are here.

Where they are not the portable programs run, which give the same up to rounding.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable

from ...artifacts.bundle import Bundle
from ...artifacts.kernels import (
    KERNEL_PLATFORM,
    kernel_problem,
    kernels_declined,
    register_kernel,
)
from ...artifacts.manifest import KERNELS, Program

_LOG = logging.getLogger(__name__)
INSTEAD = "portable programs are used"


def choose_variants(bundle: Bundle, mesh: str, platform: str) -> tuple[Program, ...]:
    """The program of each bucket: the one with kernels where the kernels are here.

    Logs a warning when there are such programs and not all can be taken. Raises UsageError when
    GEMMA3_KERNELS names no library of kernels.
    """
    programs = {program.bucket: program for program in bundle.programs_for(mesh, platform)}
    with_kernels = kernel_programs(bundle, mesh, platform)
    if not with_kernels or kernels_declined():
        return tuple(programs.values())
    for program in with_kernels:
        if all(map(register_kernel, program.custom_calls)):
            programs[program.bucket] = program
    if problem := kernel_problem(targets_of(with_kernels)):
        _LOG.warning("%s: %s", problem, INSTEAD)
    return tuple(programs.values())


def kernel_programs(bundle: Bundle, mesh: str, platform: str) -> list[Program]:
    """The programs of a mesh and platform that call kernels."""
    return [
        program
        for program in bundle.manifest.programs
        if (program.mesh, program.platform, program.variant) == (mesh, platform, KERNELS)
        and platform == KERNEL_PLATFORM
    ]


def targets_of(programs: Iterable[Program]) -> set[str]:
    """The names of the kernels that programs call."""
    return {target for program in programs for target in program.custom_calls}
