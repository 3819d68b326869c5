"""`--programs`: what is lowered, and what is refused because nothing could run it."""

from __future__ import annotations

from pathlib import Path

import pytest
from gemma3_export.artifacts.bundle import Bundle
from gemma3_export.artifacts.errors import UsageError

import gemma3_export as g3

from ..goldens.tiny_heads import CLASSIFIERS, write_classifier
from ..goldens.tiny_vision import write_checkpoint as write_seeing
from .conftest import Command

SMALL = ("--batch", "1", "--prefill", "8", "--cache", "24", "--generate", "4", "--jobs", "1")
EXPORT = {
    "batch": (1,), "prefill": (8,), "cache": (24,), "generate": 4, "jobs": 1, "dtype": "float32",
}  # fmt: skip


def programs_of(bundle: Path) -> set[str]:
    return {str(program.bucket.program) for program in Bundle.open(bundle).manifest.programs}


def test_a_bundle_of_two_programs_is_whole_and_generates(checkpoint: Path, tmp_path: Path):
    out = tmp_path / "b"
    result = g3.export(checkpoint, out, programs=["generate", "prefill"], **EXPORT)
    assert [p.bucket.program for p in result.manifest.programs] == ["prefill", "generate"]
    assert programs_of(out) == {"prefill", "generate"}
    with g3.load(out) as model:
        assert len(model.generate([2, 17, 18], max_new_tokens=6, ignore_eos=True).tokens) == 6
        with pytest.raises(
            UsageError,
            match=r"cannot score: .* has only these programs: generate, prefill; "
            "re-export with --programs generate,prefill,score",
        ):
            model.score([2, 17, 18])


def test_the_programs_are_those_of_a_whole_export_to_the_byte(checkpoint: Path, tmp_path: Path):
    g3.export(checkpoint, tmp_path / "all", **EXPORT)
    g3.export(checkpoint, tmp_path / "some", programs=["score"], **EXPORT)
    (program,) = Bundle.open(tmp_path / "some").manifest.programs
    for name in (program.stablehlo, program.jaxexport):
        assert (tmp_path / "some" / name).read_bytes() == (tmp_path / "all" / name).read_bytes()


def test_without_programs_for_images_the_vision_side_is_left_out(tmp_path: Path):
    seeing = write_seeing("image", tmp_path / "c")
    g3.export(seeing, tmp_path / "text", programs=["prefill", "decode"], **EXPORT)
    manifest = Bundle.open(tmp_path / "text").manifest
    assert (manifest.vision, set(manifest.weight_sets)) == (None, {"text"})
    chosen = ["prefill", "generate", "encode_image", "prefill_images"]
    g3.export(seeing, tmp_path / "images", programs=chosen, **EXPORT)
    assert programs_of(tmp_path / "images") == {*chosen}


REFUSED = [
    (("--programs", "generate"), "--programs: generate needs prefill; add prefill"),
    (("--programs", "decode,score"), "--programs: decode needs prefill; add prefill"),
    (("--programs", ""), "--programs: expected names from prefill,decode,generate,score,classify,"),
    (("--programs", "prefil"), "got 'prefil'"),
    (("--programs", "prefill_images"), "prefill_images needs prefill and encode_image; add prefi"),
    (("--programs", "score,encode_image"), "encode_image needs a program that takes its images"),
    (
        ("--programs", "score,encode_image,score_images", "--images", "0"),
        "--programs encode_image and --images 0 exclude each other: pass one",
    ),
    (("--programs", "score", "--images", "2"), "--images needs encode_image among --programs"),
    (("--programs", "prefill", "--outputs", "attentions"), "--outputs needs score among --progr"),
    (
        ("--programs", "prefill,classify"),
        "a Gemma3ForCausalLM, has prefill,decode,generate,score; got classify",
    ),
    (("--programs", "score,score_images,encode_image"), "got encode_image"),
    (("--programs", "prefill", "--format", "savedmodel"), "--format savedmodel needs generate am"),
    (
        ("--programs", "prefill,decode,score", "--format", "savedmodel"),
        "--format savedmodel needs generate among --programs; add generate",
    ),
    (
        ("--programs", "score", "--format", "savedmodel", "--stateful-slots", "2"),
        "--stateful-slots needs prefill and generate among --programs; add prefill,generate",
    ),
    (("--programs", "prefill,generate", "--goldens", "run"), "--goldens needs decode among --pr"),
]


@pytest.mark.parametrize(("flags", "message"), REFUSED, ids=lambda value: " ".join(value)[:60])
def test_what_nothing_could_run_is_one_line(
    gemma3_export: Command, checkpoint: Path, flags: tuple[str, ...], message: str
):
    status, out, err = gemma3_export(*SMALL, "--checkpoint", checkpoint, *flags)
    assert (status, out) == (2, "")
    assert message in err
    assert err.count("\n") == 1
    assert list(Path.cwd().iterdir()) == []


def test_a_classifier_has_programs_of_its_own(gemma3_export: Command, tmp_path: Path):
    classifier = write_classifier(sorted(CLASSIFIERS)[0], tmp_path / "c")
    status, _, err = gemma3_export(*SMALL, "--checkpoint", classifier, "--programs", "prefill")
    assert status == 2
    assert "a Gemma3ForSequenceClassification, has classify; got prefill" in err
