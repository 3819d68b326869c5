"""`--scan-layers`: the same bundle and the same tokens, with a loop over the period inside."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
from gemma3_export.artifacts.bundle import Bundle
from gemma3_export.runtime.loading.model import LoadedModel
from gemma3_export.runtime.requests.generate import generate
from gemma3_export.runtime.requests.sampling import SamplingParameters

from ..goldens.tiny import write_checkpoint
from .conftest import Command

SIZES = ("--prefill", "8", "--cache", "24", "--generate", "4", "--dtype", "float32")
PROMPT = [2, 17, 18, 40, 5, 77, 31, 9, 100, 6]


@pytest.fixture
def bundles(gemma3_export: Command, checkpoint: Path, tmp_path: Path) -> dict[str, Bundle]:
    made = {}
    for form, flags in {"unrolled": (), "scan": ("--scan-layers",)}.items():
        status, _, err = gemma3_export(
            "--checkpoint", checkpoint, "--mesh", "2x4", "--mesh", "1x1", "--jobs", "1",
            "--out", tmp_path / form, *SIZES, *flags,
        )  # fmt: skip
        assert (status, err) == (0, "")
        made[form] = Bundle.open(tmp_path / form)
    return made


def test_a_scanned_bundle_has_the_same_contract_and_gives_the_same_tokens(
    bundles: dict[str, Bundle],
):
    unrolled, scan = (bundles[form].manifest for form in ("unrolled", "scan"))
    for form, manifest in (("unrolled", unrolled), ("scan", scan)):
        assert {program.forms["layers"] for program in manifest.programs} == {form}
    assert dataclasses.replace(scan, programs=(), files=()) == dataclasses.replace(
        unrolled, programs=(), files=()
    )
    for one, other in zip(unrolled.programs, scan.programs, strict=True):
        assert dataclasses.replace(one, forms={}) == dataclasses.replace(other, forms={})
    for mesh in ("1x1", "2x4"):
        tokens = [
            generate(
                LoadedModel.load(bundle.root, mesh, "cpu"), [PROMPT], SamplingParameters(),
                max_new_tokens=9, ignore_eos=True,
            )[0].tokens
            for bundle in bundles.values()
        ]  # fmt: skip
        assert tokens[0] == tokens[1]
        assert len(set(tokens[0])) > 1


def test_a_checkpoint_that_asks_for_scanned_layers_gets_them(
    gemma3_export: Command, tmp_path: Path
):
    folder = write_checkpoint("default", tmp_path / "default")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"scan_layers": True}))
    status, _, err = gemma3_export(
        "--checkpoint", folder, "--mesh", "1x1", "--jobs", "1", "--out", tmp_path / "out", *SIZES
    )
    assert (status, err) == (0, "")
    programs = Bundle.open(tmp_path / "out").manifest.programs
    assert {program.forms["layers"] for program in programs} == {"scan"}
