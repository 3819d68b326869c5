"""runtime/native built once for the whole run, and gemma3-host as a command."""

from __future__ import annotations

import fcntl
import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

# Fixtures of the Python runtime's tests: what gemma3-host is compared with.
from ..runtime.conftest import Command, _command, backend, compile_once, toy  # noqa: F401

ROOT = Path(__file__).parents[2]
BIN = Path(sys.prefix) / "bin"


def _build(target: Path) -> None:
    options = [
        "-G", "Ninja", f"-DCMAKE_MAKE_PROGRAM={BIN / 'ninja'}",
        f"-DPython3_EXECUTABLE={sys.executable}", "-DGEMMA3_TESTS=ON",
    ]  # fmt: skip
    for command in (
        [BIN / "cmake", "-S", ROOT / "runtime" / "native", "-B", target, *options],
        [BIN / "cmake", "--build", target],
    ):
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, (done.stdout + done.stderr)[-4000:]


@pytest.fixture(scope="session")
def native() -> Path:
    """The folder of a build of runtime/native with its test programs; kept between runs."""
    target = ROOT / "build" / "native" / "tests"
    target.mkdir(parents=True, exist_ok=True)
    with (target / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        _build(target)
    return target


@pytest.fixture(scope="session")
def host_parts(native: Path) -> Path:
    """The program that prints what parts of gemma3-host make of its input."""
    return native / "host" / "host_parts"


@pytest.fixture
def gemma3_run(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Command:
    """Runs `gemma3-run` in this process; it keeps no compiled programs beside gemma3-host's."""
    from gemma3_export.runtime import cli

    run = _command(cli.main, monkeypatch, capfd)
    return lambda *arguments: run("--no-cache", *arguments)


@dataclass(frozen=True)
class Ended:
    """How a command ended and what it printed."""

    status: int
    out: str
    err: str

    @property
    def values(self) -> list:
        """The JSON values of the lines on stdout, of a command that succeeded without a word."""
        assert (self.status, self.err) == (0, "")
        return [json.loads(line) for line in self.out.splitlines()]


Host = Callable[..., Ended]


def native_environment(**changes: str) -> dict[str, str]:
    """The environment of native programs: plugins are found in this Python environment."""
    # JAX sets the log level for its process: a user's shell has none.
    own = {name: value for name, value in os.environ.items() if name != "TF_CPP_MIN_LOG_LEVEL"}
    return {**own, "VIRTUAL_ENV": sys.prefix, **changes}


@pytest.fixture(scope="session")
def gemma3_host(native: Path) -> Host:
    """Runs gemma3-host in a process of its own; keywords change its environment."""

    def run(*arguments: object, **environment: str) -> Ended:
        done = subprocess.run(
            [native / "host" / "gemma3-host", *map(str, arguments)],
            capture_output=True, check=False, env=native_environment(**environment), timeout=300,
        )  # fmt: skip
        return Ended(done.returncode, done.stdout.decode(), done.stderr.decode())

    return run
