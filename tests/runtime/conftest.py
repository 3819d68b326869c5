"""One toy bundle for the whole run, loaded once per mesh."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import jax
import pytest
from gemma3_export.runtime.loading import programs
from gemma3_export.runtime.loading.model import LoadedModel

from .toy_bundle import Toy, make_toy_bundle

Command = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="session", autouse=True)
def backend() -> None:
    """Start JAX with all its virtual devices before a command asks for only as many as it needs."""
    jax.devices()


@pytest.fixture(scope="session", autouse=True)
def user_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A cache folder of the tests' own, for compiled programs and the key that vouches for them."""
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("cache")
        patch.setenv("XDG_CACHE_HOME", str(folder))
        yield folder / "gemma3-export"


@pytest.fixture(scope="session", autouse=True)
def compile_once() -> Iterator[None]:
    """Compile equal programs once in the whole run; reading and checking them stays as it is."""
    compiled: dict[str, jax.stages.Compiled] = {}
    compile_now = programs._compile

    def look_up(lowered: jax.stages.Lowered) -> jax.stages.Compiled:
        text = lowered.as_text()
        if text not in compiled:
            compiled[text] = compile_now(lowered)
        return compiled[text]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(programs, "_compile", look_up)
        yield


@pytest.fixture(scope="session")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A toy bundle for meshes 1x1 and 2x4; batches 1 and 4, 64 positions a row."""
    out = tmp_path_factory.mktemp("bundles") / "toy"
    return make_toy_bundle(out, Toy(meshes=("1x1", "2x4")))


@pytest.fixture(scope="session")
def small_toy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The smallest toy bundle; not to be changed: copy it first."""
    out = tmp_path_factory.mktemp("bundles") / "small"
    return make_toy_bundle(out, Toy(batch=(1,), prefill=(4,)))


@pytest.fixture(scope="session")
def model(toy: Path) -> LoadedModel:
    return LoadedModel.load(toy, "1x1")


@pytest.fixture(scope="session")
def sharded_model(toy: Path) -> LoadedModel:
    return LoadedModel.load(toy, "2x4")


@pytest.fixture
def gemma3_run(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Command:
    """Runs `gemma3-run` in this process: exit status, stdout, stderr."""
    from gemma3_export.runtime.commands import run as cli

    return _command(cli.main, monkeypatch, capfd)


@pytest.fixture
def gemma3_bench(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Command:
    """Runs `gemma3-bench` in this process: exit status, stdout, stderr."""
    from gemma3_export.runtime.commands import bench

    return _command(bench.main, monkeypatch, capfd)


def _command(
    main: Callable[[], None], monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> Command:
    def run(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["command", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            main()
        out, err = capfd.readouterr()
        assert isinstance(ended.value.code, int)
        return ended.value.code, out, err

    return run


def run_python(code: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    """Run `code` in a Python of its own, without what importing JAX left in this environment."""
    return subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)],
        env={name: value for name, value in os.environ.items() if name != "TF_CPP_MIN_LOG_LEVEL"},
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )
