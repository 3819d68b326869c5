"""The library of kernels, built from its sources as they are."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from gemma3_export.artifacts import kernels

from .building import SOURCES, build, compiler


@pytest.fixture(scope="session")
def objects(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Every source of the kernels compiled, by its name."""
    folder, made = tmp_path_factory.mktemp("objects"), {}
    for source in sorted(SOURCES.glob("*.cc")):
        made[source.stem] = folder / f"{source.stem}.o"
        compiler("-c", source, "-o", made[source.stem])
    return made


@pytest.fixture(scope="session")
def library(objects: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("kernels") / "libgemma3_kernels.so"
    return build(output, *objects.values(), flags=["-shared"])


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
