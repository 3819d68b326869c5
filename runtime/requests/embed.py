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
    longest, most = max(len(text) for text in texts), max(max(found) for found in sizes.values())
    if longest > most:
        listed = ", ".join(map(str, sorted({size for found in sizes.values() for size in found})))
        raise UsageError(
            f"prompt of {longest} tokens does not fit: longest embed bucket is {most} (buckets of "
            f"{model.grid.source}: {listed}); re-export with --prefill {listed.replace(' ', '')},"
            f"{1 << (longest - 1).bit_length()}"
        )
    roomy = {shape.batch: shape for shape in shapes if max(sizes[shape]) >= longest}
    groups, first = [], 0
    for count, batch in split_rows(len(texts), roomy.keys()):
        here = max(len(text) for text in texts[first : first + count])
        size = pick(here, sizes[roomy[batch]])
        groups.append(EmbedGroup(first, count, Bucket(ProgramName.EMBED, batch, size, 0)))
        first += count
    return groups


def run_embed(
    model: LoadedModel, texts: Sequence[Sequence[int]], groups: Sequence[EmbedGroup]
) -> list[list[float]]:
    """Vectors of texts that `plan_embed` has put into groups."""
    found: list[list[float]] = []
    for group in groups:
        bucket = group.bucket
        tokens = np.zeros((bucket.batch, bucket.tokens), np.int32)
        lengths = np.zeros(bucket.batch, np.int32)
        for row, text in enumerate(texts[group.first : group.first + group.count]):
            tokens[row, : len(text)] = text
            lengths[row] = len(text)
        outputs, _ = model.program(bucket)({"tokens": tokens, "length": lengths}, ())
        found += np.asarray(outputs[0])[: group.count].tolist()
    return found
