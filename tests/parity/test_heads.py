"""Every tiny classifier and embedding model, exported and run, gives what transformers gives."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from gemma3_export.artifacts.manifest import ProgramName
from gemma3_export.runtime.classify import classify
from gemma3_export.runtime.embed import embed
from gemma3_export.runtime.model import LoadedModel

from ..goldens.loader import classifier_cases, embedder_cases
from ..goldens.tiny_heads import CLASSIFIERS, EMBEDDERS, write_classifier, write_embedder
from .bundles import make_bundle

TOLERANCE = 1e-4
LABELS = {
    "classifier": ("bad", "so so", "good"),
    "capped": ("LABEL_0", "LABEL_1", "LABEL_2", "LABEL_3"),
}


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_scores_of_a_batch_of_unequal_texts_in_chunks_are_those_of_transformers(
    name: str, tmp_path: Path
):
    case = classifier_cases()[name]
    checkpoint = write_classifier(name, tmp_path / "checkpoint")
    bundle = make_bundle(
        checkpoint, tmp_path / "bundle", "1x1", "2x4", batch=(len(case.rows),), prefill=(16,)
    )
    pad = CLASSIFIERS[name]["pad_token_id"]
    for mesh in ("1x1", "2x4"):
        model = LoadedModel.load(bundle, mesh, "cpu")
        assert {b.program for b in model.grid.buckets} == {ProgramName.CLASSIFY}
        assert model.bundle.manifest.model.labels == LABELS[name]
        assert model.bundle.manifest.model.architecture == "Gemma3ForSequenceClassification"
        width = max(len(row.tokens) for row in case.rows) + 3
        padded = [[*row.tokens, *[pad] * (width - len(row.tokens))] for row in case.rows]
        for texts in ([row.tokens for row in case.rows], padded):
            expected = [row.scores for row in case.rows]
            np.testing.assert_allclose(classify(model, texts), expected, atol=TOLERANCE)


@pytest.mark.parametrize("name", EMBEDDERS)
def test_vectors_of_a_batch_of_unequal_texts_are_those_of_transformers(name: str, tmp_path: Path):
    case = embedder_cases()[name]
    checkpoint = write_embedder(name, tmp_path / "checkpoint")
    bundle = make_bundle(
        checkpoint, tmp_path / "bundle", "1x1", "2x4", batch=(len(case.rows),), prefill=(43,)
    )
    for mesh in ("1x1", "2x4"):
        model = LoadedModel.load(bundle, mesh, "cpu")
        assert {b.program for b in model.grid.buckets} == {ProgramName.EMBED}
        assert model.bundle.manifest.model.embedding_size == len(case.rows[0].embedding)
        vectors = embed(model, [row.tokens for row in case.rows])
        np.testing.assert_allclose(vectors, [row.embedding for row in case.rows], atol=TOLERANCE)
        np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1.0, atol=1e-6)
