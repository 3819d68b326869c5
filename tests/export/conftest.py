from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from gemma3_export.export.cli import main

from ..goldens.tiny import write_checkpoint
from ..runtime.conftest import compile_once  # noqa: F401

Result = tuple[int, str, str]
Command = Callable[..., Result]


@pytest.fixture
def gemma3_export(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> Command:
    """Run gemma3-export in an empty folder with arguments: (exit status, stdout, stderr)."""
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")  # the command sets it; this puts it back
    (tmp_path / "cwd").mkdir()
    monkeypatch.chdir(tmp_path / "cwd")

    def run(*arguments: object) -> Result:
        monkeypatch.setattr(sys, "argv", ["gemma3-export", *map(str, arguments)])
        with pytest.raises(SystemExit) as left:
            main()
        out, err = capsys.readouterr()
        return int(left.value.code or 0), out, err

    return run


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny checkpoint `default`: read it, do not change it."""
    return write_checkpoint("default", tmp_path_factory.mktemp("tiny") / "default")
