"""Scores of classes for given texts, through the `classify` program."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from ...artifacts.manifest import Bucket, ProgramName
from ..images.encode import Images, check_images, encode_prompts, has_images
from ..loading.buckets import Group
from .chunks import CLASSIFY, call_buckets, chunk_inputs, plan_calls
from .request import check_prompts

if TYPE_CHECKING:
    from ..loading.model import LoadedModel

Texts = Sequence[Sequence[int]]


def classify(model: LoadedModel, texts: Texts, images: Images = ()) -> list[list[float]]:
    """Logits of the classes for texts given as token ids, in their order.

    Padding at the end of a text (the model's pad token) is not part of it. The classes are named
    by `labels` in the bundle's manifest. `images` is as in generate.Request. Raises UsageError
    before anything runs when a text does not fit the model.
    """
    return run_classify(model, texts, images, plan_classify(model, texts, images))


def plan_classify(model: LoadedModel, texts: Texts, images: Images) -> list[Group]:
    """The groups that serve the texts; raises UsageError when the model cannot serve them."""
    check_prompts(model, texts)
    check_images(model, texts, images)
    shapes, task = model.grid.classifying(), "classify"
    if has_images(images):
        shapes, task = shapes & model.grid.shapes(ProgramName.CLASSIFY_IMAGES), "classify images"
    lengths = [len(text) for text in texts]
    model.grid.require_fit(shapes, task, lengths, new_tokens=0)
    groups = model.grid.groups(shapes, len(texts), max(lengths))
    for group in groups:
        rows = _rows(model, texts, group)
        plan_calls(model, group.shape, rows, _of(images, group), CLASSIFY)  # refuses what is long
    return groups


def classify_buckets(
    model: LoadedModel, texts: Texts, images: Images, groups: Sequence[Group]
) -> set[Bucket]:
    """The programs that serving the groups takes: what to compile ahead."""
    buckets: set[Bucket] = set()
    for group in groups:
        rows = _rows(model, texts, group)
        buckets |= call_buckets(model, group.shape, rows, _of(images, group), CLASSIFY)
    return buckets


def run_classify(
    model: LoadedModel, texts: Texts, images: Images, groups: Sequence[Group]
) -> list[list[float]]:
    """Scores of texts that `plan_classify` has put into groups."""
    return [
        scores
        for group in groups
        for scores in _classify_group(
            model, _rows(model, texts, group), _of(images, group), group
        )
    ]  # fmt: skip


def _of(images: Images, group: Group) -> Images:
    return images[group.first : group.first + group.count]


def _rows(model: LoadedModel, texts: Texts, group: Group) -> list[Sequence[int]]:
    """The texts of a group, each up to its rightmost token that is not padding."""
    pad = model.bundle.manifest.model.pad_token_id
    rows = []
    for text in texts[group.first : group.first + group.count]:
        ends = [end for end, token in enumerate(text, 1) if token != pad]
        rows.append(text[: max(ends, default=1)])
    return rows


def _classify_group(
    model: LoadedModel, rows: list[Sequence[int]], images: Images, group: Group
) -> list[list[float]]:
    batch, length = group.shape.batch, group.shape.cache
    soft = encode_prompts(model, rows, images) if has_images(images) else None
    cache = model.new_cache(group.shape)
    results: list[list[float]] = [[] for _ in rows]
    for call in plan_calls(model, group.shape, rows, images, CLASSIFY):
        program = model.program(Bucket(call.program, batch, call.size, length))
        outputs, cache = program(chunk_inputs(call, rows, batch, soft), cache)
        scores = np.asarray(outputs[0])  # [B,C]
        for number, (start, count) in enumerate(call.rows):
            if count and start + count == len(rows[number]):
                results[number] = [float(score) for score in scores[number]]
    return results
