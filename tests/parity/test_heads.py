"""Every tiny classifier and embedding model, exported and run, gives what transformers gives."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from gemma3_export.artifacts.manifest import ProgramName
from gemma3_export.runtime.loading.model import LoadedModel
from gemma3_export.runtime.requests.classify import classify
from gemma3_export.runtime.requests.embed import embed
from safetensors.numpy import load_file, save_file

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


def list_modules(folder: Path, pooling: dict, *dense: str, normalize: bool) -> None:
    """modules.json as sentence-transformers 5.4 writes it, with the dense layers in `dense`."""
    found = "sentence_transformers.base.modules."
    entries = [(found + "transformer.Transformer", ""),
               ("sentence_transformers.sentence_transformer.modules.pooling.Pooling", "pooling"),
               *((found + "dense.Dense", name) for name in dense)]  # fmt: skip
    if normalize:
        entries.append((found + "normalize.Normalize", f"{len(entries)}_Normalize"))
    modules = [
        {"idx": 2 * number, "name": str(number), "path": path, "type": kind}
        for number, (kind, path) in enumerate(entries)
    ]
    (folder / "modules.json").write_text(json.dumps(modules))
    (folder / "pooling").mkdir()
    (folder / "pooling" / "config.json").write_text(json.dumps(pooling))


def test_dense_layers_are_those_of_modules_json_whatever_their_folders_are_called(tmp_path: Path):
    case, folder = embedder_cases()["embedder"], tmp_path / "checkpoint"
    write_embedder("embedder", folder)
    shutil.move(folder / "2_Dense", folder / "9_Widening")
    shutil.move(folder / "3_Dense", folder / "1_Projection")
    list_modules(folder, {"pooling_mode": "mean"}, "9_Widening", "1_Projection", normalize=True)
    model = LoadedModel.load(make_bundle(folder, tmp_path / "bundle", prefill=(43,)), "1x1", "cpu")
    vectors = embed(model, [row.tokens for row in case.rows])
    np.testing.assert_allclose(vectors, [row.embedding for row in case.rows], atol=TOLERANCE)


def test_the_last_token_of_a_causal_model_through_a_dense_layer_gives_a_classifiers_scores(
    tmp_path: Path,
):
    """What transformers gives of the same weights: neither mean, nor both ways, nor length 1."""
    case, folder = classifier_cases()["classifier"], tmp_path / "checkpoint"
    write_classifier("classifier", folder)
    tensors = load_file(folder / "model.safetensors")
    matrix = tensors.pop("score.weight")
    save_file(tensors, folder / "model.safetensors")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"architectures": ["Gemma3TextModel"]}))
    list_modules(folder, {"pooling_mode_lasttoken": True}, "2_Dense", normalize=False)
    (folder / "2_Dense").mkdir()
    save_file({"linear.weight": matrix}, folder / "2_Dense" / "model.safetensors")
    (folder / "2_Dense" / "config.json").write_text(json.dumps({
        "in_features": 64, "out_features": 3, "bias": False,
        "activation_function": "torch.nn.modules.linear.Identity",
    }))  # fmt: skip
    bundle = make_bundle(folder, tmp_path / "bundle", batch=(len(case.rows),), prefill=(43,))
    model = LoadedModel.load(bundle, "1x1", "cpu")
    assert {b.program for b in model.grid.buckets} == {ProgramName.EMBED}
    assert model.bundle.manifest.model.sliding_window == config["sliding_window"]
    vectors = embed(model, [row.tokens for row in case.rows])
    np.testing.assert_allclose(vectors, [row.scores for row in case.rows], atol=TOLERANCE)
