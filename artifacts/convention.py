"""The calling convention of programs, version 1: names, dtypes and shapes.

A program is a pure function called as (weights..., inputs..., cache...) -> (outputs...,
cache...). FORMAT.md says what each tensor means; readers refuse a manifest that says
otherwise than these functions.
"""

from __future__ import annotations

from typing import NamedTuple

from .manifest import Bucket, CacheLayout, ProgramName, VisionRecord

STOP_TOKENS = 8
"""Stop tokens a row of `generate` takes; unused ones are -1."""
IGNORED_LABEL = -100
"""The label of a position that `score` leaves out."""


class Port(NamedTuple):
    """An argument or result before it is placed on a mesh."""

    name: str
    shape: tuple[int, ...]
    dtype: str


def program_inputs(bucket: Bucket, vision: VisionRecord | None = None) -> tuple[Port, ...]:
    """The inputs of a program, in order; between the weights and the cache.

    `vision` must be there for the programs that have to do with images.
    """
    rows, chunk = (bucket.batch,), (bucket.batch, bucket.tokens)
    match bucket.program:
        case ProgramName.PREFILL | ProgramName.PREFILL_IMAGES:
            tokens = (
                Port("tokens", chunk, "int32"),
                Port("start", rows, "int32"),
                Port("length", rows, "int32"),
            )
            if bucket.program is ProgramName.PREFILL_IMAGES:
                assert vision is not None
                # Room for as many soft tokens as the call has places: no call needs more.
                room = (bucket.batch * bucket.tokens, vision.soft_token_size)
                tokens += (
                    Port("soft_tokens", room, "float32"),
                    Port("soft_index", chunk, "int32"),
                )
        case ProgramName.DECODE:
            tokens = (Port("token", rows, "int32"), Port("position", rows, "int32"))
        case ProgramName.GENERATE:
            tokens = (
                Port("token", rows, "int32"),
                Port("position", rows, "int32"),
                Port("limit", rows, "int32"),
                Port("stop_tokens", (bucket.batch, STOP_TOKENS), "int32"),
            )
        case ProgramName.SCORE:
            return (
                Port("tokens", chunk, "int32"),
                Port("start", rows, "int32"),
                Port("length", rows, "int32"),
                Port("labels", chunk, "int32"),
            )
        case ProgramName.CLASSIFY:
            return (
                Port("tokens", chunk, "int32"),
                Port("start", rows, "int32"),
                Port("length", rows, "int32"),
            )
        case ProgramName.EMBED:
            return (Port("tokens", chunk, "int32"), Port("length", rows, "int32"))
        case ProgramName.ENCODE_IMAGE:
            assert vision is not None
            side = vision.image_size
            shape = (bucket.batch, len(vision.channels), side, side)
            return (Port("pixels", shape, "float32"),)
    return tokens + sampling_inputs(bucket.batch)


def keeps_cache(program: ProgramName) -> bool:
    """Whether a program takes and gives a cache; without one its bucket has `cache` 0."""
    return program not in (ProgramName.EMBED, ProgramName.ENCODE_IMAGE)


def sees_images(program: ProgramName) -> bool:
    """Whether a program is only in bundles that take images."""
    return program in (ProgramName.ENCODE_IMAGE, ProgramName.PREFILL_IMAGES)


def sampling_inputs(batch: int) -> tuple[Port, ...]:
    """The sampling parameters of each row, the last inputs of programs that draw tokens."""
    return (
        Port("temperature", (batch,), "float32"),
        Port("top_k", (batch,), "int32"),
        Port("top_p", (batch,), "float32"),
        Port("min_p", (batch,), "float32"),
        Port("seed", (batch,), "uint32"),
    )


def program_outputs(
    bucket: Bucket, vocab_size: int, labels: int = 0, embedding: int = 0,
    vision: VisionRecord | None = None,
) -> tuple[Port, ...]:  # fmt: skip
    """The outputs of a program, in order; before the cache.

    `labels` counts the classes of a classifier, `embedding` the numbers of a vector.
    """
    rows, chunk = (bucket.batch,), (bucket.batch, bucket.tokens)
    match bucket.program:
        case ProgramName.PREFILL | ProgramName.PREFILL_IMAGES | ProgramName.DECODE:
            return (
                Port("token", rows, "int32"),
                Port("logits", (bucket.batch, vocab_size), "float32"),
            )
        case ProgramName.GENERATE:
            return (
                Port("tokens", chunk, "int32"),
                Port("count", rows, "int32"),
                Port("stopped", rows, "int32"),
                Port("token", rows, "int32"),
                Port("position", rows, "int32"),
            )
        case ProgramName.SCORE:
            return (Port("logprobs", chunk, "float32"),)
        case ProgramName.CLASSIFY:
            return (Port("scores", (bucket.batch, labels), "float32"),)
        case ProgramName.EMBED:
            return (Port("embedding", (bucket.batch, embedding), "float32"),)
        case ProgramName.ENCODE_IMAGE:
            assert vision is not None
            return (Port("soft_tokens", (*chunk, vision.soft_token_size), "float32"),)


def cache_tensors(layout: CacheLayout, batch: int) -> tuple[Port, ...]:
    """The cache of `batch` rows: of each layer key and value, [B, kv_heads, slots, head_dim].

    Quantised ones are followed by their scales, [B, kv_heads, slots].
    """
    ports: list[Port] = []
    for index, layer in enumerate(layout.layers):
        shape = (batch, layer.kv_heads, layer.slots)
        for part in ("key", "value"):
            ports.append(Port(f"cache.{index}.{part}", (*shape, layer.head_dim), layer.dtype))
        if layer.scale_dtype is not None:
            for part in ("key_scale", "value_scale"):
                ports.append(Port(f"cache.{index}.{part}", shape, layer.scale_dtype))
    return tuple(ports)
