"""What gemma3-export leaves on disk: the same bytes every time, one copy of weights, or nothing."""

from __future__ import annotations

import json
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from gemma3_export.artifacts.bundle import Bundle
from gemma3_export.artifacts.errors import ArtifactError
from gemma3_export.artifacts.inspect.diff import diff_bundles
from gemma3_export.runtime.loading.model import LoadedModel
from gemma3_export.runtime.requests.generate import generate
from gemma3_export.runtime.requests.sampling import SamplingParameters

from .conftest import Command
from .exporting import ROOT, SIZES, contents, start_elsewhere, start_export

PROGRAMS = ("prefill", "decode", "generate", "score")


def names_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.fixture(scope="module")
def bundle(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """For meshes 2x4 and 1x1, by two processes on a machine of one device."""
    cwd = tmp_path_factory.mktemp("first")
    run = start_export(
        checkpoint, cwd, "--mesh", "2x4", "--mesh", "1x1", "--jobs", "2", "--out", "bundle"
    )
    out, err = run.communicate(timeout=300)
    assert (run.returncode, err) == (0, ""), err
    assert "8 programs" in out
    return cwd / "bundle"


def test_another_run_elsewhere_gives_the_same_bytes(bundle: Path, checkpoint: Path, tmp_path: Path):
    """Another machine as far as one process can be it, and other lines of the same code."""
    meshes = ("--mesh", "2x4", "--mesh", "1x1")
    run = start_elsewhere(checkpoint, tmp_path, *meshes, "--jobs", "1", "--out", "other")
    _, err = run.communicate(timeout=300)
    assert run.returncode == 0, err
    other = tmp_path / "down" / "other"
    assert contents(other) == contents(bundle)
    assert diff_bundles(Bundle.open(bundle), Bundle.open(other)) == []


def test_no_file_names_a_path_of_this_machine_or_a_source_file(bundle: Path):
    places = {str(ROOT), sys.prefix, sys.base_prefix, str(Path.home()), str(bundle.parent)}
    files = [path for path in bundle.rglob("*") if path.is_file()]
    assert len([path for path in files if path.suffix in (".mlirbc", ".jaxexport")]) == 16
    for path in files:
        data = path.read_bytes()
        assert not [place for place in places if place != "/" and place.encode() in data], path
        assert not re.search(rb"\w\.py\b", data), path


def test_two_meshes_share_one_copy_of_the_weights_and_give_the_same_tokens(bundle: Path):
    opened = Bundle.open(bundle)
    assert opened.weight_files == ("weights/model.safetensors",)
    assert list((bundle / "weights").iterdir()) == [bundle / "weights" / "model.safetensors"]
    stored = sum(weight.nbytes for weight in opened.manifest.weights)
    assert stored <= opened.path("weights/model.safetensors").stat().st_size < stored * 1.1
    prompt = [2, 17, 18, 40, 5, 77, 31, 9, 100, 6]
    tokens = [
        generate(
            LoadedModel.load(bundle, mesh, "cpu"), [prompt], SamplingParameters(),
            max_new_tokens=9, ignore_eos=True,
        )[0].tokens
        for mesh in ("2x4", "1x1")
    ]  # fmt: skip
    assert tokens[0] == tokens[1]
    assert len(set(tokens[0])) > 1


def test_programs_lie_where_the_format_says(bundle: Path):
    for mesh in ("2x4", "1x1"):
        names = sorted(path.name for path in (bundle / "programs" / mesh / "cpu").iterdir())
        tokens = {"prefill": 8, "decode": 1, "generate": 4, "score": 8}
        assert names == sorted(
            f"{name}-b1-t{tokens[name]}-c24.{ending}"
            for name in PROGRAMS
            for ending in ("mlirbc", "jaxexport")
        )


def export_here(command: Command, checkpoint: Path, out: Path, *flags: str):
    arguments = ("--checkpoint", checkpoint, "--mesh", "1x1", "--jobs", "1", "--out", out)
    return command(*arguments, *SIZES, *flags)


def test_a_bundle_is_replaced_only_when_forced(
    gemma3_export: Command, bundle: Path, checkpoint: Path, tmp_path: Path
):
    out = Path(shutil.copytree(bundle, tmp_path / "bundle"))
    (out / "programs" / "note.txt").write_text("mine")
    before = contents(out)
    status, _, err = export_here(gemma3_export, checkpoint, out)
    assert status == 2
    assert "exists and is left as it is" in err
    assert err.count("\n") == 1
    assert contents(out) == before
    status, _, err = export_here(gemma3_export, checkpoint, out, "--force")
    assert (status, err) == (0, "")
    assert not (out / "programs" / "note.txt").exists()
    Bundle.open(out).verify()
    assert [record.mesh.name for record in Bundle.open(out).manifest.meshes] == ["1x1"]
    assert names_in(out.parent) == ["bundle", "cwd"]


def wait_for(folder: Path, pattern: str, count: int, run: subprocess.Popen) -> None:
    deadline = time.monotonic() + 120
    while len(list(folder.glob(pattern))) < count and run.poll() is None:
        assert time.monotonic() < deadline
        time.sleep(0.002)


MOMENTS = [
    (".bundle.partial-*", 1),  # nothing written yet
    (".bundle.partial-*/programs/*/*/*.mlirbc", 1),
    (".bundle.partial-*/programs/*/*/*.jaxexport", 4),  # weights are next
]


def test_a_killed_export_leaves_no_bundle_no_process_and_no_harm(
    gemma3_export: Command, checkpoint: Path, tmp_path: Path
):
    place = tmp_path / "place"
    for pattern, count in MOMENTS:
        run = start_export(checkpoint, place, "--mesh", "1x1", "--jobs", "2", "--out", "bundle")
        wait_for(place, pattern, count, run)
        workers = psutil.Process(run.pid).children(recursive=True)
        run.kill()
        run.communicate()
        assert not psutil.wait_procs(workers, timeout=20)[1]
        if (place / "bundle").exists():  # the kill came too late, so it must be whole
            assert (pattern, count) == MOMENTS[-1]
            Bundle.open(place / "bundle").verify()
            shutil.rmtree(place / "bundle")
            continue
        assert run.returncode == -signal.SIGKILL
        (leftover,) = place.glob(".bundle.partial-*")
        if (pattern, count) != MOMENTS[-1]:
            with pytest.raises(ArtifactError):
                Bundle.open(leftover)
    status, _, err = export_here(gemma3_export, checkpoint, place / "bundle")
    assert (status, err) == (0, "")
    Bundle.open(place / "bundle").verify()
    assert names_in(place) == ["bundle"]


def test_json_reports_every_program_and_what_fell_back(gemma3_export: Command, checkpoint: Path):
    status, out, err = gemma3_export(
        "--checkpoint", checkpoint, "--mesh", "2x4", "--jobs", "1", "--json", *SIZES
    )
    assert (status, err) == (0, "")
    data = json.loads(out)
    assert data["bundle"] == "default"  # named after the model
    assert [row["program"] for row in data["programs"]] == [
        "prefill",
        "decode",
        "generate",
        "score",
    ]
    bundle = Bundle.open(Path("default"))
    assert data["weights_bytes"] == sum(weight.nbytes for weight in bundle.manifest.weights)
    for row, program in zip(data["programs"], bundle.manifest.programs, strict=True):
        assert row["program_bytes"] == bundle.path(program.stablehlo).stat().st_size
        assert data["weights_bytes"] < row["argument_bytes"]
        assert row["device_bytes"] < row["argument_bytes"]
        assert row["seconds"] > 0
    # One KV head on a model axis of 4, one row on a data axis of 2: said, not hidden.
    sentences = " ".join(data["fallbacks"]["2x4"])
    assert "self_attn.k_proj.weight: kv_heads of 1 is not divisible by model=4" in sentences
    assert "cache: batch of 1 is not divisible by data=2" in sentences
    assert data["peak_rss_bytes"] > 100e6


def test_the_closing_table_has_a_row_for_each_program(gemma3_export: Command, checkpoint: Path):
    status, out, _ = gemma3_export(
        "--checkpoint", checkpoint, "--mesh", "1x1", "--jobs", "1", *SIZES
    )
    assert status == 0
    rows = [line.split()[:6] for line in out.splitlines() if line.startswith("1x1 ")]
    assert rows == [
        ["1x1", "cpu", "prefill", "1", "8", "24"],
        ["1x1", "cpu", "decode", "1", "1", "24"],
        ["1x1", "cpu", "generate", "1", "4", "24"],
        ["1x1", "cpu", "score", "1", "8", "24"],
    ]
    assert "4 programs" in out
