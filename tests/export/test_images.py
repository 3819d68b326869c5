"""What an export makes of checkpoints that see images, and which requests it refuses."""

from __future__ import annotations

from pathlib import Path

import pytest
from gemma3_export.artifacts.bundle import Bundle
from gemma3_export.artifacts.manifest import ProgramName
from gemma3_export.export.options import ExportOptions

from ..goldens import tiny
from ..goldens.tiny_vision import TINY_VISION, stored_name, vision_weights, write_checkpoint
from .conftest import Command

SMALL = ("--mesh", "1x1", "--prefill", "16", "--cache", "32", "--dtype", "float32", "--jobs", "1")
LAYOUT = "language_model.model"
IMAGES = {ProgramName.ENCODE_IMAGE, ProgramName.PREFILL_IMAGES, ProgramName.SCORE_IMAGES}
PARAMETERS = {"4b": 4_300_079_472, "12b": 12_187_325_040, "27b": 27_432_406_640}


@pytest.fixture(scope="module")
def seeing(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checkpoint("image", tmp_path_factory.mktemp("image") / "image")


def write_without(folder: Path, *parts: str) -> Path:
    """The tiny checkpoint `image` without the tensors that have one of `parts` in their name."""
    kept = [
        (stored_name(name, LAYOUT), value)
        for name, value in vision_weights("image")
        if not any(part in name for part in parts)
    ]
    return tiny.write_files(TINY_VISION["image"], sorted(kept, key=lambda item: item[0]), folder)


def refused(run: Command, *arguments: object) -> str:
    status, out, err = run(*arguments)
    assert (status, out) == (2, "")
    assert err.count("\n") == 1
    return err


def test_a_checkpoint_without_a_part_of_its_vision_side_is_refused_naming_it(
    gemma3_export: Command, tmp_path: Path
):
    checkpoint = write_without(tmp_path / "c", "mm_soft_emb_norm", "layers.1.mlp.fc2")
    line = refused(gemma3_export, *SMALL, "--checkpoint", checkpoint)
    assert "3 missing" in line
    for name in ("mm_soft_emb_norm.weight", "layers.1.mlp.fc2.weight", "layers.1.mlp.fc2.bias"):
        assert name in line
    assert not (tmp_path / "cwd" / "c").exists()


def no_text_programs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave out what other tests lower."""
    monkeypatch.setattr(ExportOptions, "buckets", lambda _: iter(()))


def test_images_option_says_how_many_one_call_encodes(
    gemma3_export: Command, tmp_path: Path, seeing: Path, monkeypatch: pytest.MonkeyPatch
):
    no_text_programs(monkeypatch)
    arguments = (*SMALL, "--prefill", "2,4,16", "--checkpoint", seeing, "--out", tmp_path / "b")
    status, _, err = gemma3_export(*arguments, "--images", "3,1")
    assert status == 0, err
    manifest = Bundle.open(tmp_path / "b").manifest
    assert [(p.bucket.program, p.bucket.batch, p.bucket.tokens) for p in manifest.programs] == [
        (ProgramName.ENCODE_IMAGE, 1, 4),
        (ProgramName.ENCODE_IMAGE, 3, 4),
        (ProgramName.PREFILL_IMAGES, 1, 4),  # 2 holds no image of 4 tokens
        (ProgramName.SCORE_IMAGES, 1, 4),
        (ProgramName.PREFILL_IMAGES, 1, 16),
        (ProgramName.SCORE_IMAGES, 1, 16),
    ]
    assert [p.weights for p in manifest.programs] == ["vision", "vision", *["text"] * 4]
    assert manifest.model.architecture == "Gemma3ForConditionalGeneration"
    assert manifest.model.config["vision_config"]["image_size"] == 28
    vision = manifest.vision
    assert vision is not None
    assert (vision.image_size, vision.tokens_per_image, vision.soft_token_size) == (28, 4, 64)
    assert (vision.begin_token_id, vision.soft_token_id, vision.end_token_id) == (250, 252, 251)


@pytest.mark.parametrize("none", ["0", "none"])
def test_images_can_be_left_out_of_a_bundle(
    gemma3_export: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, none: str
):
    buckets = ExportOptions.buckets
    monkeypatch.setattr(ExportOptions, "buckets", lambda self: iter([next(buckets(self))]))
    checkpoint = write_without(tmp_path / "c", "mm_soft_emb_norm")  # is not looked at
    status, _, err = gemma3_export(
        *SMALL, "--checkpoint", checkpoint, "--images", none, "--out", tmp_path / "b"
    )
    assert status == 0, err
    manifest = Bundle.open(tmp_path / "b").manifest
    assert manifest.vision is None
    assert set(manifest.weight_sets) == {"text"}
    assert manifest.model.architecture == "Gemma3ForCausalLM"
    assert not IMAGES & {program.bucket.program for program in manifest.programs}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--images", "x"), "--images: expected whole numbers"),
        (("--images", "0,1"), "--images: expected whole numbers from 1"),
        (("--prefill", "2,3"), "expected a size that holds an image of 4 tokens, got 2,3"),
        (("--abstract", "1b", "--images", "1"), "--images: 1b sees no images"),
    ],
)
def test_a_request_that_makes_no_sense_is_one_line(
    gemma3_export: Command, seeing: Path, arguments: tuple[str, ...], message: str
):
    source = () if "--abstract" in arguments else ("--checkpoint", seeing)
    assert message in refused(gemma3_export, *SMALL, *source, *arguments)


def test_images_of_a_checkpoint_of_text_are_refused(gemma3_export: Command, checkpoint: Path):
    line = refused(gemma3_export, *SMALL, "--checkpoint", checkpoint, "--images", "1")
    assert "sees no images: expected a checkpoint with vision_config and a vision tower" in line


@pytest.mark.parametrize("size", PARAMETERS)
def test_published_sizes_lower_with_images_on_eight_devices(
    gemma3_export: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: str
):
    no_text_programs(monkeypatch)
    status, _, err = gemma3_export(
        "--mesh", "2x4", "--abstract", size, "--platform", "cpu,tpu", "--out", tmp_path / "b",
        "--jobs", "1",
    )  # fmt: skip
    assert status == 0, err
    manifest = Bundle.open(tmp_path / "b").manifest
    assert manifest.model.parameters == PARAMETERS[size]
    assert {(p.platform, p.bucket.program) for p in manifest.programs} == {
        (platform, program) for platform in ("cpu", "tpu") for program in IMAGES
    }
    heads = "vision_tower.vision_model.encoder.layers.0.self_attn.q_proj.weight"
    assert manifest.meshes[0].weight_specs[heads] == (("model",), ())
