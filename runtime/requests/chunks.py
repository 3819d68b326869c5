"""Calls of programs that take in prompts: which program, how many tokens, what each row feeds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from ...artifacts.chunks import plan_prefill
from ...artifacts.convention import takes_images
from ...artifacts.manifest import Bucket, ProgramName
from ..images.encode import Images, Prompts, SoftPrompts, encode_buckets, has_images
from ..images.prompt import plan_prefill_with_images
from ..loading.buckets import Shape

if TYPE_CHECKING:
    from ..loading.model import LoadedModel


class ProgramPair(NamedTuple):
    """A program for chunks of text, and the one for chunks with images in them."""

    text: ProgramName
    images: ProgramName


PREFILL = ProgramPair(ProgramName.PREFILL, ProgramName.PREFILL_IMAGES)
SCORE = ProgramPair(ProgramName.SCORE, ProgramName.SCORE_IMAGES)
CLASSIFY = ProgramPair(ProgramName.CLASSIFY, ProgramName.CLASSIFY_IMAGES)


@dataclass(frozen=True)
class Call:
    """One call of `program` with `size` tokens: what each row feeds, as (start, length).

    A row with nothing left has length 0. Rows may start at different places.
    """

    program: ProgramName
    size: int
    rows: tuple[tuple[int, int], ...]


def plan_calls(
    model: LoadedModel, shape: Shape, prompts: Prompts, images: Images, programs: ProgramPair
) -> list[Call]:
    """The calls of `shape` that take in the prompts, in order.

    A chunk without images goes through the program for texts, which does less.
    Raises UsageError when an image does not fit the largest chunk.
    """
    sizes = model.grid.tokens(programs.text, shape)
    if not has_images(images):
        return _plan_text([(0, len(prompt)) for prompt in prompts], sizes, programs.text)
    vision = model.bundle.manifest.vision
    assert vision is not None
    soft, calls = vision.soft_token_id, []
    for chunk in plan_prefill_with_images(
        prompts, soft, model.grid.tokens(programs.images, shape)
    ):  # fmt: skip
        size, needed = chunk.size, max(length for _, length in chunk.rows)
        has_soft = any(
            soft in prompt[start : start + length]
            for prompt, (start, length) in zip(prompts, chunk.rows, strict=True)
        )
        if not has_soft and sizes and needed <= max(sizes):
            calls += _plan_text(chunk.rows, sizes, programs.text)
        else:
            calls.append(Call(programs.images, size, chunk.rows))
    return calls


def _plan_text(
    rows: Sequence[tuple[int, int]], sizes: Sequence[int], program: ProgramName
) -> list[Call]:
    """The calls that take in what `rows` say, each as (start, length)."""
    calls, offset = [], 0
    for size in plan_prefill(max(length for _, length in rows), sizes):
        parts = tuple(
            (start + min(offset, length), min(max(length - offset, 0), size))
            for start, length in rows
        )
        calls.append(Call(program, size, parts))
        offset += size
    return calls


def call_buckets(
    model: LoadedModel, shape: Shape, prompts: Prompts, images: Images, programs: ProgramPair
) -> set[Bucket]:
    """The programs that take in prompts with these images."""
    calls = plan_calls(model, shape, prompts, images, programs)
    buckets = {Bucket(call.program, shape.batch, call.size, shape.cache) for call in calls}
    return buckets | encode_buckets(model, sum(map(len, images)))


def chunk_inputs(
    call: Call, prompts: Prompts, batch: int, soft: SoftPrompts | None
) -> dict[str, np.ndarray]:
    """tokens [B,T], start [B], length [B], and for images soft_tokens [B*T,D], soft_index [B,T]."""
    tokens = np.zeros((batch, call.size), np.int32)
    starts, lengths = np.zeros(batch, np.int32), np.zeros(batch, np.int32)
    for row, (start, length) in enumerate(call.rows):
        tokens[row, :length] = prompts[row][start : start + length]
        starts[row], lengths[row] = start, length
    inputs = {"tokens": tokens, "start": starts, "length": lengths}
    if soft is None or not takes_images(call.program):
        return inputs
    return inputs | soft.inputs(call.rows, call.size, batch)
