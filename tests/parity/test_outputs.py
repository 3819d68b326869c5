"""Hidden states, attentions and losses of every layer, exported and run, are transformers'."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import pytest
from gemma3_export.artifacts.convention import SCORE_OUTPUTS
from gemma3_export.artifacts.manifest import Bucket, ProgramName
from gemma3_export.export import pipeline
from gemma3_export.runtime.loading.model import LoadedModel
from gemma3_export.runtime.requests.classify import classify
from gemma3_export.runtime.requests.score import score

from ..goldens import tiny
from ..goldens.loader import OutputCase, image_classifier_rows, output_cases
from ..goldens.tiny_vision import (
    TINY_VISION,
    pixels,
    write_checkpoint,
    write_image_classifier,
)
from .bundles import make_bundle

TOLERANCE = 1e-4
PICTURES = 3


def _check(model: LoadedModel, case: OutputCase) -> None:
    """Two rows, the text and its beginning, as the golden has them."""
    short = case.tokens[:9] if not case.images else case.tokens
    images = [pixels(case.name, PICTURES)[list(case.images)]] * 2 if case.images else []
    whole, _ = score(
        model, [case.tokens, short], [case.labels, case.labels[: len(short)]], images,
        SCORE_OUTPUTS,
    )  # fmt: skip
    assert whole.hidden_states is not None
    assert whole.attentions is not None
    np.testing.assert_allclose(whole.hidden_states, case.hidden_states, atol=TOLERANCE)
    np.testing.assert_allclose(whole.attentions, case.attentions, atol=TOLERANCE)
    assert whole.loss == pytest.approx(case.loss, abs=TOLERANCE)
    assert [lp is None for lp in whole.logprobs] == [label == -100 for label in case.labels[1:]]


def scoring_alone(buckets: Callable[..., Iterable[Bucket]]) -> Callable[..., list[Bucket]]:
    """The grid without the programs that are not looked at here."""
    wanted = (ProgramName.SCORE, ProgramName.SCORE_IMAGES, ProgramName.ENCODE_IMAGE)
    return lambda *given: [bucket for bucket in buckets(*given) if bucket.program in wanted]


@pytest.mark.parametrize("name", output_cases())
@pytest.mark.parametrize("mesh", ["1x1", "2x4"])
def test_every_layer_and_the_loss_are_those_of_transformers(
    name: str, mesh: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(pipeline, "_buckets", scoring_alone(pipeline._buckets))
    case = output_cases()[name]
    sees = name in TINY_VISION
    write = write_checkpoint if sees else tiny.write_checkpoint
    # In chunks: of text within the window's reach, of images as long as the longest needs.
    prefill = {"image": (8,), "image_beyond_window": (18,)}.get(name, (4,))
    bundle = make_bundle(
        write(name, tmp_path / "checkpoint"), tmp_path / "bundle", mesh, prefill=prefill,
        cache=(32,), batch=(2,), outputs=SCORE_OUTPUTS,
    )  # fmt: skip
    model = LoadedModel.load(bundle, mesh, "cpu")
    assert model.bundle.manifest.score_outputs == SCORE_OUTPUTS
    _check(model, case)


@pytest.mark.parametrize("mesh", ["1x1", "2x4"])
def test_a_classifier_that_sees_images_scores_as_transformers_does(mesh: str, tmp_path: Path):
    checkpoint = write_image_classifier(tmp_path / "checkpoint")
    bundle = make_bundle(
        checkpoint, tmp_path / "bundle", mesh, prefill=(8,), cache=(48,), batch=(2,), images=(2,)
    )
    model = LoadedModel.load(bundle, mesh, "cpu")
    assert {b.program for b in model.grid.buckets} == {
        ProgramName.CLASSIFY, ProgramName.CLASSIFY_IMAGES, ProgramName.ENCODE_IMAGE,
    }  # fmt: skip
    assert model.bundle.manifest.model.labels == ("cat", "dog", "neither")
    rows = image_classifier_rows()
    found = classify(
        model, [row.tokens for row in rows],
        [pixels("image", PICTURES)[list(row.images)] for row in rows],
    )  # fmt: skip
    np.testing.assert_allclose(found, [row.scores for row in rows], atol=TOLERANCE)
