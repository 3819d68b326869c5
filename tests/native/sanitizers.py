"""Builds of the library, the host, the kernels and their tests with sanitizers, and clean runs.

Plugins are not built with sanitizers: what happens inside them is left out (leaks.txt, races.txt).
"""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from .library import build, environment

_COMMON = ("-DCMAKE_BUILD_TYPE=None",)
_HERE = Path(__file__).parent


def address_build() -> Path:
    """Everything with the address and undefined behaviour sanitizers.

    Not optimised: what it runs is mostly the plugin, and compiling takes half as long.
    """
    kinds = "address,undefined,float-cast-overflow"
    return build("asan", *_COMMON, "-DCMAKE_CXX_FLAGS=-O0", f"-DGEMMA3_SANITIZE={kinds}")


def thread_build() -> Path:
    """The library and the kernels with the thread sanitizer; the host has one thread of its own."""
    flags = ("-DCMAKE_CXX_FLAGS=-O1", "-DGEMMA3_SANITIZE=thread", "-DGEMMA3_HOST=OFF")
    return build("tsan", *_COMMON, *flags)


def run_suite(folder: Path, *arguments: object) -> subprocess.CompletedProcess[str]:
    """Run native_suite of a build, with the plugin that is found."""
    return run(folder / "programs" / "native_suite", "", *arguments)


def run(program: Path, *arguments: object, **changes: str) -> subprocess.CompletedProcess[str]:
    """Run a program of a build; keywords change its environment."""
    return subprocess.run(
        [program, *map(str, arguments)],
        capture_output=True, text=True, check=False, timeout=600,
        env=environment(
            LSAN_OPTIONS=f"suppressions={_HERE / 'leaks.txt'}",
            TSAN_OPTIONS=f"suppressions={_HERE / 'races.txt'}",
            UBSAN_OPTIONS="print_stacktrace=1",
            ASAN_OPTIONS=os.environ.get("ASAN_OPTIONS", ""),
            **changes,
        ),
    )  # fmt: skip


def check_clean(done: subprocess.CompletedProcess[str], *statuses: int) -> None:
    """Fail for an exit status other than these, by default 0, or for anything a sanitizer said."""
    assert done.returncode in (statuses or (0,)), (
        done.returncode,
        done.stdout[-2000:],
        done.stderr[-6000:],
    )
    assert "Sanitizer" not in done.stderr, done.stderr[-6000:]
    assert "runtime error" not in done.stderr, done.stderr[-6000:]
