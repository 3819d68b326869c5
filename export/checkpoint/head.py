"""The head of a checkpoint: its own matrix or the embedding, whatever the config says."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from .tensors import TensorSource

_HEAD, _EMBEDDING = "lm_head.weight", "model.embed_tokens.weight"
_COMPARED_BYTES = 16 << 20

Resolved = tuple[dict[str, TensorSource], dict[str, Any], tuple[str, ...]]
"""Tensors, config and notes."""


def resolve_head(tensors: dict[str, TensorSource], config: dict[str, Any]) -> Resolved:
    """Tie as transformers does: by the config, unless both matrices are stored and differ.

    A config that ties a head which is stored with other values is wrong and is corrected; the
    copy of a tied head is dropped; a head that is stored alone is the embedding too. A head that
    differs is found out at its first rows; only an equal one is read to the end.
    """
    if config.get("text_config"):
        # transformers reads it at the top alone, which has a default of its own.
        tied = config.get("tie_word_embeddings")
        tied = True if tied is None else tied
        config = config | {"text_config": config["text_config"] | {"tie_word_embeddings": tied}}
    head, embedding = tensors.get(_HEAD), tensors.get(_EMBEDDING)
    if head is None or not _ties(config):
        return tensors, config, ()
    rest = {name: source for name, source in tensors.items() if name != _HEAD}
    if embedding is None:
        rest[_EMBEDDING] = dataclasses.replace(head, name=_EMBEDDING)
        return rest, config, (f"{_HEAD} is the embedding too: it is stored alone and tied to it",)
    if _same(head, embedding):
        return rest, config, ()
    note = (
        f"{_HEAD} and {_EMBEDDING} differ, so they are not tied, as in transformers, though "
        "config.json says tie_word_embeddings"
    )
    return tensors, _untied(config), (note,)


def _ties(config: dict[str, Any]) -> bool:
    """Whether the config, with the same at both levels, ties head and embedding."""
    tied = (config.get("text_config") or config).get("tie_word_embeddings")
    return True if tied is None else bool(tied)


def _untied(config: dict[str, Any]) -> dict[str, Any]:
    changed = config | {"tie_word_embeddings": False}
    if config.get("text_config"):
        changed["text_config"] = config["text_config"] | {"tie_word_embeddings": False}
    return changed


def _same(one: TensorSource, other: TensorSource) -> bool:
    """Whether two matrices hold the same numbers, in whatever types."""
    if one.shape != other.shape:
        return False
    step = max(1, _COMPARED_BYTES // max(1, one.row_elements * 8))
    for start in range(0, one.rows, step):
        stop = min(start + step, one.rows)
        a, b = one.read_rows(start, stop), other.read_rows(start, stop)
        if a.dtype == b.dtype and np.array_equal(a.view(np.uint8), b.view(np.uint8)):
            continue
        # Bits may differ where numbers do not: in another type, or in the sign of a zero.
        if not np.array_equal(a.astype(np.float64), b.astype(np.float64)):
            return False
    return True
