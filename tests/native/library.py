"""Builds of runtime/native for tests, and the library in a process of its own."""

from __future__ import annotations

import contextlib
import fcntl
import functools
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
BIN = Path(sys.prefix) / "bin"
SITE_PACKAGES = Path(sys.prefix) / "lib" / f"python3.{sys.version_info.minor}" / "site-packages"
PLUGINS = {
    "xla_cpu_pjrt": SITE_PACKAGES / "xla_plugins" / "xla_cpu_pjrt" / "xla_cpu_pjrt.so",
    "lammps_jax_pjrt_cpu": SITE_PACKAGES / "lammps_jax_pjrt_cpu" / "pjrt_c_api_cpu_plugin.so",
}
"""The CPU plugins of the tests' environment; the first is the one found when none is named."""


USAGE, CONTEXT_FULL, OUT_OF_MEMORY, INTEGRITY, UNKNOWN_VERSION, NOT_FOUND = 2, 4, 5, 6, 7, 8
"""Statuses of gemma3.h."""


@functools.cache
def build(name: str, *options: str) -> Path:
    """The folder of a build of runtime/native with its test programs, kept between runs."""
    target = ROOT / "build" / "native" / name
    configure = [
        BIN / "cmake", "-S", ROOT / "runtime" / "native", "-B", target, "-G", "Ninja",
        f"-DCMAKE_MAKE_PROGRAM={BIN / 'ninja'}", f"-DPython3_EXECUTABLE={sys.executable}",
        "-DGEMMA3_TESTS=ON", *_compiler_cache(), *options,
    ]  # fmt: skip
    with locked(target):
        variables = {"CCACHE_BASEDIR": str(ROOT), **os.environ}
        for command in (configure, [BIN / "cmake", "--build", target]):
            done = subprocess.run(
                command, capture_output=True, text=True, check=False, env=variables
            )
            assert done.returncode == 0, (done.stdout + done.stderr)[-4000:]
    return target


@contextlib.contextmanager
def locked(target: Path) -> Iterator[None]:
    """Nobody else builds in this folder meanwhile."""
    target.mkdir(parents=True, exist_ok=True)
    with (target / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _compiler_cache() -> list[str]:
    """What lets other builds and clones give what they compiled, where ccache is installed."""
    ccache = shutil.which("ccache")
    return [f"-DCMAKE_{x}_COMPILER_LAUNCHER={ccache}" for x in ("C", "CXX")] if ccache else []


def environment(**changes: str) -> dict[str, str]:
    """The environment of native programs: plugins are found in this Python environment."""
    # JAX sets it for itself when it is imported.
    inherited = {k: v for k, v in os.environ.items() if k != "TF_CPP_MIN_LOG_LEVEL"}
    return {**inherited, "VIRTUAL_ENV": sys.prefix, **changes}


@dataclass(frozen=True)
class Replies:
    """What a process that served requests gave: replies, in order, and what it printed besides."""

    values: list[Any]
    stderr: str

    def refused(self, index: int, expected: int = USAGE) -> str:
        """The message of a call that must have failed with this status."""
        status, message, _ = self.values[index]["refused"]
        assert status == expected, (status, message)
        return message

    def value(self, index: int) -> Any:
        """The value of a call that must have succeeded."""
        assert "refused" not in self.values[index], self.values[index]
        return self.values[index]["value"]


def call(name: str, *arguments: Any, **named: Any) -> list[Any]:
    """A request of `binding.serve`."""
    return [name, arguments, named]


def serve(library: Path, *requests: list[Any], **changes: str) -> Replies:
    """Answer requests in a process of its own; keywords change its environment."""
    done = subprocess.run(
        [sys.executable, Path(__file__).parent / "binding.py", library],
        input=json.dumps(requests), capture_output=True, text=True, check=False, timeout=300,
        env=environment(**changes),
    )  # fmt: skip
    lines = done.stdout.splitlines()
    assert done.returncode == 0, (done.returncode, lines[-1:], done.stderr[-2000:])
    return Replies([json.loads(line) for line in lines], done.stderr)
