"""Goldens of a bundle, recorded or given, and programs written for older readers."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import jax
import pytest
from gemma3_export.artifacts.bundle import Bundle
from gemma3_export.artifacts.errors import ArtifactError, UsageError
from gemma3_export.artifacts.goldens import check_goldens, format_goldens, read_goldens
from gemma3_export.export.stablehlo import check_target, for_version

from .conftest import Command
from .exporting import SIZES, start_export

Result = tuple[int, str, str]


@pytest.fixture(scope="module")
def recorded(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle whose goldens the export recorded, for readers of StableHLO 1.13."""
    jax.devices()  # before a command asks for as many as it needs
    cwd = tmp_path_factory.mktemp("goldens")
    flags = ("--mesh", "1x1", "--goldens", "run", "--stablehlo-version", "1.13.0")
    run = start_export(checkpoint, cwd, *flags, "--jobs", "1", "--out", "bundle")
    _, err = run.communicate(timeout=300)
    assert (run.returncode, err) == (0, ""), err
    return cwd / "bundle"


@pytest.fixture
def verify(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable:
    """`gemma3-bundle verify` in this process."""
    from gemma3_export.runtime.commands.bundle import main

    def run(*arguments: object) -> Result:
        monkeypatch.setattr(sys, "argv", ["gemma3-bundle", "verify", *map(str, arguments)])
        with pytest.raises(SystemExit) as left:
            main()
        out, err = capsys.readouterr()
        return int(left.value.code or 0), out, err

    return run


def test_recorded_goldens_are_run_and_compared(recorded: Path, verify: Callable[..., Result]):
    goldens = read_goldens(Bundle.open(recorded))
    assert goldens is not None
    assert all(len(case.new_tokens) > 0 for case in goldens.cases)
    status, out, err = verify(recorded, "--run", "--json")
    assert (status, err) == (0, "")
    report = json.loads(out)
    assert [golden["ok"] for golden in report["goldens"]] == [True] * len(goldens.cases)


def test_a_bundle_that_gives_other_tokens_is_refused(
    recorded: Path, tmp_path: Path, verify: Callable[..., Result]
):
    """As if the programs had changed: the golden is edited, and its digest with it."""
    bundle = Path(shutil.copytree(recorded, tmp_path / "bundle"))
    goldens = json.loads((bundle / "goldens.json").read_text())
    right = goldens["cases"][0]["new_tokens"][1]
    goldens["cases"][0]["new_tokens"][1] = (right + 1) % 256
    data = json.dumps(goldens).encode()
    (bundle / "goldens.json").write_bytes(data)
    manifest = json.loads((bundle / "manifest.json").read_text())
    (entry,) = [file for file in manifest["files"] if file["path"] == "goldens.json"]
    entry.update(bytes=len(data), sha256=hashlib.sha256(data).hexdigest())
    (bundle / "manifest.json").write_text(json.dumps(manifest))
    status, out, err = verify(bundle, "--run")
    assert status == 2
    expected = f"expected {(right + 1) % 256}, got {right}"
    assert f"new token 2 of {len(goldens['cases'][0]['new_tokens'])}: {expected}" in out
    assert err.startswith(f"error: {bundle}: golden 1 of {len(goldens['cases'])} came out wrong: ")
    assert err.count("\n") == 1


def test_goldens_given_in_a_file_are_those_of_the_bundle(
    recorded: Path, gemma3_export: Command, checkpoint: Path
):
    status, _, err = gemma3_export(
        "--mesh", "1x1", "--checkpoint", checkpoint, *SIZES, "--jobs", "1", "--out", "given",
        "--goldens", recorded / "goldens.json",
    )  # fmt: skip
    assert status == 0, err
    given, was = Path("given/goldens.json").read_bytes(), (recorded / "goldens.json").read_bytes()
    assert given == was
    assert Bundle.open("given").manifest.goldens == "goldens.json"


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--goldens", "none.json"), "--goldens: expected run or a file of goldens, got none.json"),
        (("--abstract", "270m", "--goldens", "run"), "--goldens run: expected weights to run with"),
        (("--stablehlo-version", "1.13"), "--stablehlo-version: expected a version from 0.15.0 to"),
        (("--stablehlo-version", "99.0.0"), "such as 1.13.0; got '99.0.0'"),
        (("--stablehlo-version", "0.14.0"), "such as 1.13.0; got '0.14.0'"),
    ],
)
def test_what_cannot_be_had_is_refused_before_any_work(
    gemma3_export: Command, checkpoint: Path, flags: tuple[str, ...], message: str
):
    source = () if "--abstract" in flags else ("--checkpoint", checkpoint)
    status, out, err = gemma3_export("--mesh", "1x1", *source, *SIZES, *flags)
    assert (status, out) == (2, "")
    assert message in err
    assert err.count("\n") == 1
    assert list(Path().iterdir()) == []


def change(goldens, **changes):
    """The goldens with their first case changed."""
    first = dataclasses.replace(goldens.cases[0], **changes)
    return dataclasses.replace(goldens, cases=(first, *goldens.cases[1:]))


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda g: dataclasses.replace(g, tolerance=-1.0), "tolerance: expected at least 0"),
        (lambda g: dataclasses.replace(g, cases=()), "cases: expected at least one, got none"),
        (lambda g: change(g, tokens=()), "cases[0].tokens: expected at least one token"),
        (lambda g: change(g, tokens=(256,)), "cases[0].tokens: expected ids below 256, got 256"),
        (lambda g: change(g, new_tokens=(-1,)), "cases[0].new_tokens: expected ids below 256"),
        (lambda g: change(g, new_tokens=()), "cases[0]: expected new_tokens and nothing else"),
        (lambda g: change(g, kind="classify"), "cases[0].kind: expected one the bundle has"),
    ],
)
def test_goldens_of_another_model_are_refused(recorded: Path, edit: Callable, message: str):
    bundle = Bundle.open(recorded)
    goldens = read_goldens(bundle)
    with pytest.raises(ArtifactError) as error:
        check_goldens(edit(goldens), bundle.manifest, "goldens.json")
    assert message in str(error.value)


def test_a_changed_goldens_file_is_refused(recorded: Path, tmp_path: Path):
    bundle = Path(shutil.copytree(recorded, tmp_path / "bundle"))
    data = bytearray((bundle / "goldens.json").read_bytes())
    data[-3] ^= 1
    (bundle / "goldens.json").write_bytes(data)
    with pytest.raises(ArtifactError, match=r"goldens.json: contents changed"):
        read_goldens(Bundle.open(bundle))


def test_formatted_goldens_are_read_as_they_were(recorded: Path):
    goldens = read_goldens(Bundle.open(recorded))
    assert goldens is not None
    assert format_goldens(goldens) == (recorded / "goldens.json").read_bytes()


def test_programs_for_older_readers_say_so_in_header_and_manifest(recorded: Path):
    bundle = Bundle.open(recorded)
    assert bundle.manifest.versions.stablehlo == "1.13.0"
    for program in bundle.manifest.programs:
        module = bundle.path(program.stablehlo).read_bytes()
        assert b"StableHLO_v1.13.0" in module[:64]
        assert for_version(module, "1.13.0") == module
        assert b"StableHLO_v1.9.0" in for_version(module, "1.9.0")[:64]


def test_bytes_that_are_no_program_are_refused_without_a_word_on_stderr(
    capfd: pytest.CaptureFixture[str],
):
    check_target("1.13.0")
    with pytest.raises(UsageError, match=r"--stablehlo-version 1.13.0: a program cannot be"):
        for_version(b"no module", "1.13.0")
    assert capfd.readouterr().err == ""
