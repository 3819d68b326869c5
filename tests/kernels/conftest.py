"""The library of kernels as it is built for users, and XLA's registry."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from gemma3_export.artifacts import kernels

from ..native.library import build


@pytest.fixture(scope="session")
def built() -> Path:
    """The folder of a build of runtime/native with its test programs; kept between runs."""
    return build("tests")


@pytest.fixture(scope="session")
def library(built: Path) -> Path:
    return built / "kernels" / "libgemma3_kernels.so"


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch):
    """Sets GEMMA3_KERNELS and forgets what an earlier test found."""

    def use(value: str) -> None:
        monkeypatch.setenv(kernels.ENVIRONMENT, value)
        kernels.register_kernel.cache_clear()

    yield use
    kernels.register_kernel.cache_clear()


@pytest.fixture
def registered(library: Path, environment: Callable[[str], None]) -> Callable[[str], None]:
    """Gives XLA a kernel of the library, by its target."""
    environment(str(library))

    def register(target: str) -> None:
        assert kernels.register_kernel(target)

    return register
