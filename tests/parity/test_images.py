"""Tiny multimodal checkpoints, exported and run with images, give what transformers gives."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from gemma3_export.artifacts.bundle import Bundle
from gemma3_export.artifacts.errors import UsageError
from gemma3_export.artifacts.manifest import Bucket, ProgramName
from gemma3_export.export.options import ExportOptions
from gemma3_export.runtime.images.encode import encode_images
from gemma3_export.runtime.loading.model import LoadedModel
from gemma3_export.runtime.requests.generate import generate
from gemma3_export.runtime.requests.sampling import SamplingParameters

from ..goldens.loader import VisionPrompt, vision_cases
from ..goldens.tiny_vision import LAYOUTS, TINY_VISION, pixels, write_checkpoint
from .bundles import make_bundle

TOLERANCE = 1e-4
PICTURES = 3
TEXT_PROGRAMS = {
    ProgramName.PREFILL, ProgramName.DECODE, ProgramName.GENERATE, ProgramName.SCORE,
}  # fmt: skip


def _load(name: str, folder: Path, mesh: str = "1x1", **changes) -> LoadedModel:
    checkpoint = write_checkpoint(name, folder / "checkpoint")
    return LoadedModel.load(make_bundle(checkpoint, folder / "bundle", mesh, **changes), mesh)


def _goldens(name: str) -> list[VisionPrompt]:
    return [prompt for prompt in vision_cases()[name].prompts if prompt.images]


def _check(name: str, model: LoadedModel, goldens: Sequence[VisionPrompt]) -> None:
    """The prompts, as rows of one request, are continued as transformers does."""
    pictures = pixels(name, PICTURES)
    completions = generate(
        model, [golden.tokens for golden in goldens], SamplingParameters(),
        max_new_tokens=len(goldens[0].generated), ignore_eos=True, logprobs=5,
        images=[pictures[list(golden.images)] for golden in goldens],
    )  # fmt: skip
    for completion, golden in zip(completions, goldens, strict=True):
        assert completion.tokens == list(golden.generated)
        assert completion.logprobs is not None
        for got, expected in zip(completion.logprobs, golden.best, strict=True):
            for token, logprob in expected:
                assert dict(got)[token] == pytest.approx(logprob, abs=TOLERANCE)


@pytest.mark.parametrize("name", TINY_VISION)
def test_soft_tokens_and_prompts_with_one_and_two_images_are_those_of_transformers(
    name: str, tmp_path: Path
):
    model = _load(name, tmp_path, prefill=(64,), images=(1, 2))
    features = encode_images(model, pixels(name, PICTURES))  # two calls
    np.testing.assert_allclose(features, vision_cases()[name].features, atol=TOLERANCE)
    for golden in _goldens(name):
        _check(name, model, [golden])


def test_rows_in_chunks_that_leave_images_whole_on_eight_devices(tmp_path: Path):
    """One image and two, of other pictures; each is larger than the window."""
    goldens = [_goldens("image_beyond_window")[i] for i in (0, 3)]
    assert [golden.images for golden in goldens] == [(0,), (1, 2)]
    model = _load("image_beyond_window", tmp_path, "2x4", prefill=(18,), batch=(2,))
    _check("image_beyond_window", model, goldens)


def test_rows_of_a_batch_have_their_own_images_lengths_and_chunks(tmp_path: Path):
    goldens = _goldens("image")[1:3]
    assert len({len(golden.tokens) for golden in goldens}) == 2
    _check("image", _load("image", tmp_path, prefill=(8,), batch=(2,)), goldens)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_of_names_gives_the_same_weights(
    layout: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Only the smallest program is lowered: they do not depend on the names."""
    monkeypatch.setattr(ExportOptions, "buckets", lambda _: iter(()))
    monkeypatch.setattr(
        ExportOptions, "image_buckets", lambda *_: [Bucket(ProgramName.ENCODE_IMAGE, 1, 4, 0)]
    )
    bundles = [
        Bundle.open(
            make_bundle(write_checkpoint("image", tmp_path / f"{name}-c", name), tmp_path / name)
        )
        for name in {layout, next(iter(LAYOUTS))}
    ]
    digests = {
        record.sha256
        for bundle in bundles
        for record in bundle.manifest.files
        if record.path.startswith("weights/")
    }
    assert len(digests) == 1
    assert set(bundles[0].manifest.weight_sets) == {"text", "vision"}


def test_images_for_a_bundle_without_them_and_wrong_arrays_are_refused(tmp_path: Path):
    name, golden = "image", _goldens("image")[0]
    picture = pixels(name, 1)
    plain = _load(name, tmp_path / "plain", prefill=(16,), images=())
    seeing = _load(name, tmp_path / "seeing", prefill=(16,))
    assert plain.bundle.manifest.vision is None
    assert {p.bucket.program for p in plain.bundle.manifest.programs} == TEXT_PROGRAMS
    for model, images, message in (
        (plain, [picture], "has no encode_image program"),
        (seeing, [picture[:, :, :5]], r"expected pixels \[n,3,28,28\] float32, got \[1,3,5,28\]"),
        (seeing, [picture.astype(np.float64)], "got .* float64"),
        (seeing, [picture] * 2, "expected an array for each of the 1 prompts, got 2"),
        (seeing, [np.concatenate([picture, picture])], "but 2 images need 8"),
        (seeing, [], "images brings none"),
    ):
        with pytest.raises(UsageError, match=message):
            generate(model, [golden.tokens], SamplingParameters(), max_new_tokens=1, images=images)
