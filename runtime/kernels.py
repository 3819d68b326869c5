"""Which variant of each program runs: the one with C++ kernels where the kernels are here.

Where they are not the portable programs run, which give the same up to rounding.
"""

from __future__ import annotations

from ..artifacts.bundle import Bundle
from ..artifacts.kernels import KERNEL_PLATFORM, register_kernel
from ..artifacts.manifest import KERNELS, Program


def choose_variants(bundle: Bundle, mesh: str, platform: str) -> tuple[Program, ...]:
    """The program of each bucket: the one with kernels where the kernels are here.

    Raises UsageError when GEMMA3_KERNELS names no library of kernels.
    """
    chosen = {program.bucket: program for program in bundle.programs_for(mesh, platform)}
    if platform == KERNEL_PLATFORM:
        for program in bundle.programs_for(mesh, platform, KERNELS):
            if all(map(register_kernel, program.custom_calls)):
                chosen[program.bucket] = program
    return tuple(chosen.values())
