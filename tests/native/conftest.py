"""gemma3-host as a command, beside gemma3-run."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

# Fixtures of the Python runtime's tests: what gemma3-host is compared with.
from ..runtime.conftest import (  # noqa: F401
    Command,
    _command,
    backend,
    compile_once,
    toy,
    user_cache,
)
from .library import build, environment


@pytest.fixture(scope="session")
def native() -> Path:
    """The folder of a build of runtime/native with its test programs; kept between runs."""
    return build("tests")


@pytest.fixture(scope="session")
def host_parts(native: Path) -> Path:
    """The program that prints what parts of gemma3-host make of its input."""
    return native / "host" / "host_parts"


@pytest.fixture
def gemma3_run(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Command:
    """Runs `gemma3-run` in this process; it keeps no compiled programs beside gemma3-host's."""
    from gemma3_export.runtime.commands import run as cli

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


@pytest.fixture(scope="session")
def gemma3_host(native: Path) -> Host:
    """Runs gemma3-host in a process of its own; keywords change its environment."""

    def run(*arguments: object, **changes: str) -> Ended:
        done = subprocess.run(
            [native / "host" / "gemma3-host", *map(str, arguments)],
            capture_output=True, check=False, env=environment(**changes), timeout=300,
        )  # fmt: skip
        return Ended(done.returncode, done.stdout.decode(), done.stderr.decode())

    return run
