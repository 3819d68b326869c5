"""`--require-signature` of the commands that run bundles, and `gemma3-bundle sign`."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from gemma3_export.runtime.loading import start as startup

from ..signing_keys import write_key
from .conftest import run_python
from .toy_bundle import copy_bundle

Command = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def signed(small_toy: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A signed toy bundle and the public key; signed by the command."""
    folder = tmp_path_factory.mktemp("signed")
    bundle = copy_bundle(small_toy, folder / "toy")
    private, public = write_key(folder, "ours")
    code = "from gemma3_export.runtime.commands.bundle import main; main()"
    run = run_python(code, "sign", bundle, "--key", private)
    files = sum(1 for path in bundle.rglob("*") if path.is_file()) - 1
    assert (run.returncode, run.stderr) == (0, "")
    assert run.stdout == f"{bundle}/model.sig: signature of {files} files\n"
    return bundle, public


def test_a_signed_bundle_runs(gemma3_run: Command, signed: tuple[Path, Path]):
    bundle, key = signed
    status, out, err = gemma3_run(
        bundle, "--tokens", "2,17", "--json", "--max-new-tokens", 2, "--require-signature", key
    )
    assert status == 0, err
    assert '"tokens"' in out


@pytest.mark.parametrize("command", ["gemma3_run", "gemma3_bench"])
def test_anything_else_is_refused_before_it_is_opened(
    command: str, request: pytest.FixtureRequest, signed: tuple[Path, Path], tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
):  # fmt: skip
    def opened(path: Path) -> None:
        raise AssertionError("opened before the signature was checked")

    monkeypatch.setattr(startup.Bundle, "open", opened)
    run = request.getfixturevalue(command)
    flags = ["--tokens", "2,17"] if command == "gemma3_run" else []
    bundle = copy_bundle(signed[0], tmp_path / "toy")
    program = next(bundle.glob("programs/**/*.jaxexport"))
    program.write_bytes(program.read_bytes()[:-1] + b"\x7f")
    status, out, err = run(bundle, *flags, "--require-signature", signed[1])
    assert (status, out) == (2, "")
    assert f"{program.relative_to(bundle)} is not what was signed" in err
    _, other = write_key(tmp_path, "theirs")
    status, out, err = run(signed[0], *flags, "--require-signature", other)
    assert (status, out) == (2, "")
    assert err.startswith(f"error: {signed[0]}/model.sig: not a signature of this bundle by ")
    assert err.count("\n") == 1


def test_chain_needs_a_certificate(
    small_toy: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    from gemma3_export.runtime.commands.bundle import main

    arguments = ["sign", str(small_toy), "--key", "k.pem", "--chain", "c.pem"]
    monkeypatch.setattr(sys, "argv", ["gemma3-bundle", *arguments])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    assert "--chain needs --certificate" in capsys.readouterr().err
