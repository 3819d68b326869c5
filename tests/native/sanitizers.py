"""Builds of the native suite with sanitizers, and what a clean run is.

Plugins are not built with sanitizers: what happens inside them is left out (leaks.txt, races.txt).
"""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from .library import build, environment

_COMMON = ("-DCMAKE_BUILD_TYPE=None", "-DGEMMA3_HOST=OFF")
_HERE = Path(__file__).parent


def address_build() -> Path:
    """The suite with the address and undefined behaviour sanitizers.

    Not optimised: what it runs is mostly the plugin, and compiling takes half as long.
    """
    return build("asan", *_COMMON, "-DCMAKE_CXX_FLAGS=-O0", "-DGEMMA3_SANITIZE=address,undefined")


def thread_build() -> Path:
    """The suite with the thread sanitizer."""
    return build("tsan", *_COMMON, "-DCMAKE_CXX_FLAGS=-O1", "-DGEMMA3_SANITIZE=thread")


def run_suite(folder: Path, *arguments: object) -> subprocess.CompletedProcess[str]:
    """Run native_suite of a build, with the plugin that is found."""
    return subprocess.run(
        [folder / "programs" / "native_suite", "", *map(str, arguments)],
        capture_output=True, text=True, check=False, timeout=600,
        env=environment(
            LSAN_OPTIONS=f"suppressions={_HERE / 'leaks.txt'}",
            TSAN_OPTIONS=f"suppressions={_HERE / 'races.txt'}",
            UBSAN_OPTIONS="print_stacktrace=1",
            ASAN_OPTIONS=os.environ.get("ASAN_OPTIONS", ""),
        ),
    )  # fmt: skip


def check_clean(done: subprocess.CompletedProcess[str]) -> None:
    """Fail for a bad exit or for anything a sanitizer said."""
    assert done.returncode == 0, (done.returncode, done.stdout[-2000:], done.stderr[-6000:])
    assert "Sanitizer" not in done.stderr, done.stderr[-6000:]
    assert "runtime error" not in done.stderr, done.stderr[-6000:]
