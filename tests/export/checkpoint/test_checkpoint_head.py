"""A head and an embedding are tied as transformers does it: by config and by what is stored."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest
from gemma3_export.export.checkpoint import blocks, open_checkpoint
from gemma3_export.export.checkpoint.tensors import TensorSource
from gemma3_export.model.config import Gemma3TextConfig

HEAD, EMBEDDING = "lm_head.weight", "model.embed_tokens.weight"
TIED = [
    {}, {"tie_word_embeddings": True}, {"tie_word_embeddings": None},
    {"tie_word_embeddings": True, "text_config": {"tie_word_embeddings": False}},
    {"text_config": {"tie_word_embeddings": False}},
]  # fmt: skip
UNTIED = [
    {"tie_word_embeddings": False},
    {"tie_word_embeddings": False, "text_config": {"tie_word_embeddings": True}},
]


def ties(config: dict) -> tuple[object, ...]:
    """What the config says to whoever reads it: at the top and of the text."""
    text = config.get("text_config")
    return (config.get("tie_word_embeddings"), *([text.get("tie_word_embeddings")] if text else []))


@pytest.mark.parametrize("fields", TIED, ids=str)
def test_a_stored_head_that_differs_is_used_and_said(make_folder, weights, config, fields):
    head = weights[EMBEDDING].copy()
    head[-1, -1] += 1  # in the very last number
    checkpoint = open_checkpoint(make_folder(weights | {HEAD: head}, config | fields))
    np.testing.assert_array_equal(
        np.concatenate(list(blocks(checkpoint.tensors[HEAD], "float32"))), head
    )
    assert set(ties(checkpoint.config)) == {False}
    (note,) = checkpoint.notes
    assert note.startswith(f"{HEAD} and {EMBEDDING} differ, so they are not tied")


@pytest.mark.parametrize("fields", TIED, ids=str)
@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.float16, ml_dtypes.bfloat16])
def test_a_stored_copy_of_the_embedding_is_dropped(make_folder, weights, config, fields, dtype):
    weights[EMBEDDING][0, 0] = 0.0
    head = weights[EMBEDDING].astype(dtype)
    head[0, 0] = -0.0
    checkpoint = open_checkpoint(make_folder(weights | {HEAD: head}, config | fields))
    assert set(checkpoint.tensors) == set(weights)
    assert set(ties(checkpoint.config)) <= {True, None}
    assert Gemma3TextConfig.from_dict(checkpoint.config).tie_word_embeddings
    assert checkpoint.notes == ()


@pytest.mark.parametrize("fields", UNTIED, ids=str)
def test_a_head_that_the_config_does_not_tie_is_read_even_where_it_is_a_copy(
    make_folder, weights, config, fields
):
    folder = make_folder(weights | {HEAD: weights[EMBEDDING]}, config | fields)
    checkpoint = open_checkpoint(folder)
    assert HEAD in checkpoint.tensors
    assert set(ties(checkpoint.config)) == {False}
    assert not Gemma3TextConfig.from_dict(checkpoint.config).tie_word_embeddings


def test_a_tied_head_that_is_stored_alone_is_the_embedding(make_folder, weights, config):
    weights[HEAD] = weights.pop(EMBEDDING)
    checkpoint = open_checkpoint(make_folder(weights, config))
    assert HEAD not in checkpoint.tensors
    np.testing.assert_array_equal(
        np.concatenate(list(blocks(checkpoint.tensors[EMBEDDING], "float32"))), weights[HEAD]
    )
    assert checkpoint.notes == (f"{HEAD} is the embedding too: it is stored alone and tied to it",)


@pytest.mark.parametrize(("changed", "most"), [(0, 1), (95, 6)])
def test_only_a_head_that_is_equal_is_read_to_the_end(
    make_folder, weights, config, monkeypatch, changed, most
):
    read: list[tuple[str, int]] = []
    read_rows = TensorSource.read_rows

    def counted(self: TensorSource, start: int, stop: int) -> np.ndarray:
        read.append((self.name, stop - start))
        return read_rows(self, start, stop)

    monkeypatch.setattr(TensorSource, "read_rows", counted)
    monkeypatch.setattr("gemma3_export.export.checkpoint.head._COMPARED_BYTES", 16 * 32 * 8)
    head = weights[EMBEDDING].copy()
    head[changed] += 1
    open_checkpoint(make_folder(weights | {HEAD: head}, config))
    assert read == [(HEAD, 16), (EMBEDDING, 16)] * most
