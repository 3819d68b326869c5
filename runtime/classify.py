"""Scores of classes for given texts, through the `classify` program."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..artifacts.manifest import Bucket, ProgramName
from .buckets import Group, plan_prefill
from .generate import check_prompts
from .model import LoadedModel


def classify(model: LoadedModel, texts: Sequence[Sequence[int]]) -> list[list[float]]:
    """Logits of the classes for texts given as token ids, in their order.

    Padding at the end of a text (the model's pad token) is not part of it. The classes are named
    by `labels` in the bundle's manifest. Raises UsageError before anything runs when a text does
    not fit the model.
    """
    return run_classify(model, texts, plan_classify(model, texts))


def plan_classify(model: LoadedModel, texts: Sequence[Sequence[int]]) -> list[Group]:
    """The groups that serve the texts; raises UsageError when the model cannot serve them."""
    check_prompts(model, texts)
    shapes, lengths = model.grid.classifying(), [len(text) for text in texts]
    model.grid.require_fit(shapes, "classify", lengths, new_tokens=0)
    return model.grid.groups(shapes, len(texts), max(lengths))


def classify_buckets(
    model: LoadedModel, texts: Sequence[Sequence[int]], groups: Sequence[Group]
) -> set[Bucket]:
    """The programs that serving the groups takes: what to compile ahead."""
    return {
        Bucket(ProgramName.CLASSIFY, group.shape.batch, size, group.shape.cache)
        for group in groups
        for size in _chunks(model, _rows(model, texts, group), group)
    }


def run_classify(
    model: LoadedModel, texts: Sequence[Sequence[int]], groups: Sequence[Group]
) -> list[list[float]]:
    """Scores of texts that `plan_classify` has put into groups."""
    return [
        scores
        for group in groups
        for scores in _classify_group(model, _rows(model, texts, group), group)
    ]


def _rows(model: LoadedModel, texts: Sequence[Sequence[int]], group: Group) -> list[Sequence[int]]:
    """The texts of a group, each up to its rightmost token that is not padding."""
    pad = model.bundle.manifest.model.pad_token_id
    rows = []
    for text in texts[group.first : group.first + group.count]:
        places = [place for place, token in enumerate(text, 1) if token != pad]
        rows.append(text[: max(places, default=1)])
    return rows


def _chunks(model: LoadedModel, rows: list[Sequence[int]], group: Group) -> list[int]:
    longest = max(len(row) for row in rows)
    return plan_prefill(longest, model.grid.tokens(ProgramName.CLASSIFY, group.shape))


def _classify_group(
    model: LoadedModel, rows: list[Sequence[int]], group: Group
) -> list[list[float]]:
    batch, length = group.shape.batch, group.shape.cache
    lengths = np.zeros(batch, np.int32)
    lengths[: len(rows)] = [len(row) for row in rows]
    cache, start = model.new_cache(group.shape), 0
    found: list[list[float]] = [[] for _ in rows]
    for size in _chunks(model, rows, group):
        tokens = np.zeros((batch, size), np.int32)
        for number, row in enumerate(rows):
            part = row[start : start + size]
            tokens[number, : len(part)] = part
        here = np.clip(lengths - start, 0, size).astype(np.int32)
        program = model.program(Bucket(ProgramName.CLASSIFY, batch, size, length))
        outputs, cache = program((tokens, np.full(batch, start, np.int32), here), cache)
        scores = np.asarray(outputs[0])  # [B,C]
        for number, row in enumerate(rows):
            if start < len(row) <= start + size:
                found[number] = [float(score) for score in scores[number]]
        start += size
    return found
