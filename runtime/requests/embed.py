"""Vectors of given texts, through the `embed` program."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from ...artifacts.errors import UsageError
from ...artifacts.manifest import Bucket, ProgramName
from ..loading.buckets import pick, split_rows
from .request import check_prompts

if TYPE_CHECKING:
    from ..loading.model import LoadedModel


@dataclass(frozen=True)
class EmbedGroup:
    """Texts `first` to `first + count` of a request, embedded by one call."""

    first: int
    count: int
    bucket: Bucket


def embed(model: LoadedModel, texts: Sequence[Sequence[int]]) -> list[list[float]]:
    """The vector, of length 1, of each text given as token ids, in their order.

    Raises UsageError before anything runs when a text does not fit the model: one that is longer
    than the largest bucket has no vector, since its tokens see each other in both directions.
    """
    return run_embed(model, texts, plan_embed(model, texts))


def plan_embed(model: LoadedModel, texts: Sequence[Sequence[int]]) -> list[EmbedGroup]:
    """The calls that serve the texts; raises UsageError when the model cannot serve them."""
    check_prompts(model, texts)
    shapes = model.grid.embedding()
    model.grid.longest(shapes, "embed")  # refused where there are none
    sizes = {shape: model.grid.tokens(ProgramName.EMBED, shape) for shape in shapes}
    longest = max(len(text) for text in texts)
    all_sizes = sorted({size for shape_sizes in sizes.values() for size in shape_sizes})
    if longest > all_sizes[-1]:
        choices = ",".join(map(str, all_sizes))
        raise UsageError(
            f"prompt of {longest} tokens does not fit: longest embed bucket is {all_sizes[-1]} "
            f"(buckets of {model.grid.source}: {choices.replace(',', ', ')}); re-export with "
            f"--prefill {choices},{1 << (longest - 1).bit_length()}"
        )
    usable = {shape.batch: shape for shape in shapes if max(sizes[shape]) >= longest}
    groups, first = [], 0
    for count, batch in split_rows(len(texts), usable.keys()):
        group_longest = max(len(text) for text in texts[first : first + count])
        size = pick(group_longest, sizes[usable[batch]])
        groups.append(EmbedGroup(first, count, Bucket(ProgramName.EMBED, batch, size, 0)))
        first += count
    return groups


def run_embed(
    model: LoadedModel, texts: Sequence[Sequence[int]], groups: Sequence[EmbedGroup]
) -> list[list[float]]:
    """Vectors of texts that `plan_embed` has put into groups."""
    vectors: list[list[float]] = []
    for group in groups:
        bucket = group.bucket
        tokens = np.zeros((bucket.batch, bucket.tokens), np.int32)
        lengths = np.zeros(bucket.batch, np.int32)
        for row, text in enumerate(texts[group.first : group.first + group.count]):
            tokens[row, : len(text)] = text
            lengths[row] = len(text)
        outputs, _ = model.program(bucket)({"tokens": tokens, "length": lengths}, ())
        vectors += np.asarray(outputs[0])[: group.count].tolist()
    return vectors
