"""What gemma3-export refuses: one line on stderr, status 2, nothing written."""

from __future__ import annotations

import errno
import json
import re
import shutil
from collections import namedtuple
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from gemma3_export.artifacts import atomic, writer
from gemma3_export.export import pipeline

from .conftest import Command

SMALL = ("--mesh", "1x1", "--prefill", "8", "--cache", "16", "--generate", "4", "--jobs", "1")


def refused(command: Command, *arguments: object) -> str:
    """The one line of an export that is refused."""
    status, out, err = command(*arguments)
    assert (status, out) == (2, ""), err
    assert re.fullmatch(r"error: [^\n]+\n", err)
    assert "Traceback" not in err
    return err


def left_in(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


FLAGS = [
    (("--mesh", "2x"), "--mesh: expected DATAxMODEL"),
    (("--mesh", "0x4"), "--mesh: expected sizes of at least 1"),
    (("--mesh", "2x4x2"), "--mesh: expected DATAxMODEL"),
    (("--mesh", "foo=2"), "--mesh: expected axis names"),
    (("--mesh", "dp=2,dp=2"), "--mesh: expected each axis once"),
    (("--mesh", "2x4", "--mesh", "2x4"), "--mesh: expected each mesh once, got 2x4, 2x4"),
    (("--mesh", "2048x2048"), "--mesh: expected at most 1048576 devices"),
    (("--mesh", "1x1", "--batch", ""), "--batch: expected whole numbers"),
    (("--mesh", "1x1", "--prefill", "32,,64"), "--prefill: expected whole numbers"),
    (("--mesh", "1x1", "--prefill", "0"), "--prefill: expected whole numbers"),
    (("--mesh", "1x1", "--cache", "2k"), "--cache: expected whole numbers"),
    (("--mesh", "1x1", "--cache", "256"), "--cache 256 is smaller than --prefill 512"),
    (("--mesh", "1x1", "--platform", "rocm"), "--platform: expected names from cpu,cuda,tpu"),
    (("--mesh", "1x1", "--abstract", "9b"), "--abstract: expected one of 270m, 1b, 4b, 12b, 27b"),
    (("--mesh", "1x1", "--dtype", "float16"), "Invalid value for '--dtype'"),
    (("--mesh", "1x1", "--generate", "0"), "Invalid value for '--generate'"),
    (("--mesh", "1x1", "--jobs", "0"), "Invalid value for '--jobs'"),
    (("--mesh", "1x1", "--colour"), "No such option"),
    (("--mesh", "1x1", "bundle"), "unexpected extra argument"),
]


@pytest.mark.parametrize(("flags", "reason"), FLAGS, ids=lambda value: " ".join(value)[:40])
def test_flags(gemma3_export: Command, flags: tuple[str, ...], reason: str):
    assert reason in refused(gemma3_export, *flags)
    assert left_in(Path.cwd()) == []


def test_a_checkpoint_that_is_not_there(gemma3_export: Command, tmp_path: Path):
    line = refused(gemma3_export, *SMALL, "--checkpoint", tmp_path / "none")
    assert f"{tmp_path / 'none'}: no such file or folder" in line


def test_abstract_together_with_a_checkpoint(gemma3_export: Command, checkpoint: Path):
    line = refused(gemma3_export, *SMALL, "--abstract", "1b", "--checkpoint", checkpoint)
    assert "not both" in line


def shards(folder: Path) -> None:
    """Turn the single file into an index of two shards, of which the second is missing."""
    header = json.loads((folder / "model.safetensors").read_bytes()[8:].split(b"}}")[0] + b"}}")
    names = sorted(set(header) - {"__metadata__"})
    (folder / "model.safetensors").rename(folder / "model-00001-of-00002.safetensors")
    weight_map = dict.fromkeys(names, "model-00001-of-00002.safetensors")
    weight_map[names[-1]] = "model-00002-of-00002.safetensors"
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))


def truncate(folder: Path) -> None:
    file = folder / "model.safetensors"
    with file.open("r+b") as opened:
        opened.truncate(file.stat().st_size - 100)


def change_config(**changes: object) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps(config | changes))

    return change


def stop_at_a_name(folder: Path) -> None:
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": ["<eos>"]}))


DAMAGE: list[tuple[str, Callable[[Path], None], str]] = [
    ("shard missing", shards, "shard model-00002-of-00002.safetensors is missing"),
    ("truncated", truncate, "model.safetensors"),
    (
        "wrong shape",
        change_config(intermediate_size=96),
        "tensor model.layers.0.mlp.gate_proj.weight has a wrong shape: expected 96x64",
    ),
    ("layers missing", change_config(num_hidden_layers=9), "missing (model.layers.6."),
    ("layers too many", change_config(num_hidden_layers=3), "unexpected (model.layers.3."),
    ("another architecture", change_config(model_type="llama"), "model_type 'llama'"),
    ("a bad field", change_config(head_dim="16"), "config.json head_dim: expected a whole number"),
    (
        "another class",
        change_config(architectures=["Gemma3ForCausalLMWithValueHead"]),
        "architectures: 'Gemma3ForCausalLMWithValueHead' is not exported",
    ),
    ("a bad rope", change_config(rope_scaling={"rope_type": "mrope"}), "rope_scaling.rope_type"),
    ("text config no object", change_config(text_config=[1]), "text_config must be an object"),
    (
        "a classifier both ways",
        change_config(
            architectures=["Gemma3ForSequenceClassification"], use_bidirectional_attention=True
        ),
        "use_bidirectional_attention: expected false for a classifier",
    ),
    ("stop tokens no ids", stop_at_a_name, "eos_token_id"),
]


@pytest.mark.parametrize(
    ("damage", "reason"), [entry[1:] for entry in DAMAGE], ids=[entry[0] for entry in DAMAGE]
)
def test_checkpoints(
    gemma3_export: Command, checkpoint: Path, tmp_path: Path,
    damage: Callable[[Path], None], reason: str,
):  # fmt: skip
    damaged = Path(shutil.copytree(checkpoint, tmp_path / "damaged"))
    damage(damaged)
    line = refused(gemma3_export, *SMALL, "--checkpoint", damaged, "--out", "bundle")
    assert reason in line
    assert str(damaged) in line
    assert left_in(Path.cwd()) == []


def one_nan(folder: Path) -> None:
    """Make the first number of the last norm NaN."""
    file = folder / "model.safetensors"
    length = int.from_bytes(file.read_bytes()[:8], "little")
    header = json.loads(file.read_bytes()[8 : 8 + length])
    with file.open("r+b") as opened:
        opened.seek(8 + length + header["model.norm.weight"]["data_offsets"][0])
        opened.write(np.array(np.nan, np.float32).tobytes())


@pytest.fixture
def diverged(checkpoint: Path, tmp_path: Path) -> Path:
    """A checkpoint with one weight that is NaN."""
    folder = Path(shutil.copytree(checkpoint, tmp_path / "diverged"))
    one_nan(folder)
    return folder


@pytest.mark.parametrize("quantize", ["none", "int8"])
def test_a_weight_that_is_not_a_number_is_refused_and_leaves_nothing(
    gemma3_export: Command, diverged: Path, quantize: str
):
    line = refused(
        gemma3_export, *SMALL, "--checkpoint", diverged, "--out", "b", "--quantize", quantize
    )
    assert "tensor model.norm.weight has numbers that are NaN or infinite (1 of 64, " in line
    assert "the first at [0])" in line
    assert left_in(Path.cwd()) == []


def test_a_weight_that_is_not_a_number_is_exported_for_who_asks_and_said(
    gemma3_export: Command, diverged: Path
):
    status, out, err = gemma3_export(
        *SMALL, "--checkpoint", diverged, "--out", "b", "--allow-nonfinite"
    )
    assert (status, err) == (0, "")
    assert "NaN or infinity in model.norm.weight" in out


ODD_NAMES = ["line\nbreak", "latin-\udce9", "bell\a", "\u2028"]


@pytest.mark.parametrize("name", ODD_NAMES, ids=ascii)
@pytest.mark.parametrize("flag", ["--checkpoint", "--out"])
def test_names_that_no_manifest_could_hold_are_refused_before_any_work(
    gemma3_export: Command, checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    flag: str, name: str,
):  # fmt: skip
    def worked(*_: object) -> None:
        raise AssertionError("it began to work")

    monkeypatch.setattr(pipeline, "open_checkpoint", worked)
    given = {"--checkpoint": checkpoint, "--out": "bundle", flag: tmp_path / name}
    line = refused(gemma3_export, *SMALL, *(part for pair in given.items() for part in pair))
    assert f"{flag}: expected a path in UTF-8 without control characters, got " in line
    assert left_in(Path.cwd()) == []


def test_a_folder_whose_own_name_is_odd_is_refused_wherever_it_is_named_from(
    gemma3_export: Command, checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    odd = Path(shutil.copytree(checkpoint, tmp_path / "line\nbreak"))
    monkeypatch.chdir(odd)
    before = left_in(Path.cwd())
    line = refused(gemma3_export, *SMALL, "--checkpoint", ".", "--out", "../bundle")
    assert "expected a model name in UTF-8 without control characters" in line
    assert left_in(Path.cwd()) == before


BITS = [
    ({"bits": 8}, "none", "pass --quantize int8"), ({"bits": 8}, "int4", "pass --quantize int8"),
    ({"bits": 4}, "none", "pass --quantize int4"), ({"bits": 4}, "int8", "pass --quantize int4"),
]  # fmt: skip


@pytest.mark.parametrize(("changes", "quantize", "remedy"), BITS, ids=str)
def test_bits_of_the_config_that_are_not_those_of_the_export_are_refused(
    gemma3_export: Command, checkpoint: Path, tmp_path: Path, changes: dict, quantize: str,
    remedy: str,
):  # fmt: skip
    folder = Path(shutil.copytree(checkpoint, tmp_path / "bits"))
    change_config(**changes)(folder)
    line = refused(gemma3_export, *SMALL, "--checkpoint", folder, "--quantize", quantize)
    assert f"config.json bits: {changes['bits']} asks for quantised matrices" in line
    assert remedy in line


def test_fields_that_a_bundle_does_not_keep_are_said(
    gemma3_export: Command, checkpoint: Path, tmp_path: Path
):
    folder = Path(shutil.copytree(checkpoint, tmp_path / "fields"))
    change_config(
        bits=8, output_attentions=True, output_hidden_states=True, mask_max_position_embeddings=12,
        attn_logit_softcapping=50.0,
    )(folder)  # fmt: skip
    status, out, err = gemma3_export(
        *SMALL, "--checkpoint", folder, "--out", "b", "--quantize", "int8", "--outputs",
        "hidden_states",
    )  # fmt: skip
    assert (status, err) == (0, "")
    assert "config.json output_attentions is not kept: --outputs attentions asks for them" in out
    assert "output_hidden_states" not in out
    assert "config.json mask_max_position_embeddings 12 does not limit the programs" in out
    assert "attn_logit_softcapping of 50.0 is applied to the scores of attention, where tra" in out


@pytest.mark.parametrize("force", [False, True])
def test_an_output_that_is_no_bundle_stays_as_it_is(
    gemma3_export: Command, checkpoint: Path, force: bool
):
    out = Path("precious")
    out.mkdir()
    (out / "thesis.txt").write_text("years of work")
    flags = ("--force",) if force else ()
    line = refused(gemma3_export, *SMALL, "--checkpoint", checkpoint, "--out", out, *flags)
    assert ("is not a bundle" if force else "exists and is left as it is") in line
    assert left_in(Path.cwd()) == ["precious", "precious/thesis.txt"]
    assert (out / "thesis.txt").read_text() == "years of work"


def test_a_disk_with_too_little_room_is_refused_before_any_work(
    gemma3_export: Command, checkpoint: Path, monkeypatch: pytest.MonkeyPatch
):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(atomic.shutil, "disk_usage", lambda path: usage(10**12, 10**12, 1000))
    line = refused(gemma3_export, *SMALL, "--checkpoint", checkpoint, "--out", "bundle")
    assert "not enough disk space" in line
    assert "got 1000" in line
    assert left_in(Path.cwd()) == []


def test_a_disk_that_fills_up_leaves_nothing(
    gemma3_export: Command, checkpoint: Path, monkeypatch: pytest.MonkeyPatch
):
    def full(self: writer.BundleFile, data: bytes) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(writer.BundleFile, "write", full)
    line = refused(gemma3_export, *SMALL, "--checkpoint", checkpoint, "--out", "bundle")
    assert "disk full while writing" in line
    assert left_in(Path.cwd()) == []


def test_help_names_every_flag_of_the_contract(gemma3_export: Command):
    status, out, err = gemma3_export("--help")
    assert (status, err) == (0, "")
    for flag in (
        "--mesh", "--checkpoint", "--out", "--batch", "--prefill", "--cache", "--generate",
        "--platform", "--dtype", "--abstract", "--jobs", "--force", "--json",
    ):  # fmt: skip
        assert flag in out


def test_a_place_where_the_system_makes_no_folders_is_one_line(
    gemma3_export: Command, checkpoint: Path
):
    status, out, err = gemma3_export("--checkpoint", checkpoint, "--out", "/proc/bundle")
    assert (status, out) == (2, "")
    assert err.startswith("error: cannot write /proc/bundle: ")
    assert err.count("\n") == 1
