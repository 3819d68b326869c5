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


HIDDEN_STATES, ATTENTIONS = "hidden_states", "attentions"
SCORE_OUTPUTS = (HIDDEN_STATES, ATTENTIONS)
"""What `score` may give besides log-probabilities, in this order."""


class ScoreExtras(NamedTuple):
    """What `score` gives besides log-probabilities, and the sizes it has."""

    names: tuple[str, ...]
    """Of SCORE_OUTPUTS."""
    layers: int
    hidden_size: int
    heads: int
    """Query heads."""


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
    drawing = sampling_inputs(bucket.batch)
    text = (
        Port("tokens", chunk, "int32"),
        Port("start", rows, "int32"),
        Port("length", rows, "int32"),
    )
    labels = (Port("labels", chunk, "int32"),)
    match bucket.program:
        case ProgramName.PREFILL:
            return text + drawing
        case ProgramName.PREFILL_IMAGES:
            return text + _image_inputs(bucket, vision) + drawing
        case ProgramName.DECODE:
            return (Port("token", rows, "int32"), Port("position", rows, "int32"), *drawing)
        case ProgramName.GENERATE:
            return (
                Port("token", rows, "int32"),
                Port("position", rows, "int32"),
                Port("limit", rows, "int32"),
                Port("stop_tokens", (bucket.batch, STOP_TOKENS), "int32"),
                *drawing,
            )
        case ProgramName.SCORE:
            return text + labels
        case ProgramName.SCORE_IMAGES:
            return text + _image_inputs(bucket, vision) + labels
        case ProgramName.CLASSIFY:
            return text
        case ProgramName.CLASSIFY_IMAGES:
            return text + _image_inputs(bucket, vision)
        case ProgramName.EMBED:
            return (Port("tokens", chunk, "int32"), Port("length", rows, "int32"))
        case ProgramName.ENCODE_IMAGE:
            assert vision is not None
            side = vision.image_size
            shape = (bucket.batch, len(vision.channels), side, side)
            return (Port("pixels", shape, "float32"),)


def _image_inputs(bucket: Bucket, vision: VisionRecord | None) -> tuple[Port, ...]:
    """What a chunk with images takes besides its tokens."""
    assert vision is not None
    # Room for as many soft tokens as the call has places: no call needs more.
    room = (bucket.batch * bucket.tokens, vision.soft_token_size)
    return (
        Port("soft_tokens", room, "float32"),
        Port("soft_index", (bucket.batch, bucket.tokens), "int32"),
    )


def keeps_cache(program: ProgramName) -> bool:
    """Whether a program takes and gives a cache; without one its bucket has `cache` 0."""
    return program not in (ProgramName.EMBED, ProgramName.ENCODE_IMAGE)


def sees_images(program: ProgramName) -> bool:
    """Whether a program is only in bundles that take images."""
    return program is ProgramName.ENCODE_IMAGE or takes_images(program)


def takes_images(program: ProgramName) -> bool:
    """Whether a program reads texts that have images in them."""
    return program in (
        ProgramName.PREFILL_IMAGES, ProgramName.SCORE_IMAGES, ProgramName.CLASSIFY_IMAGES
    )  # fmt: skip


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
    vision: VisionRecord | None = None, extras: ScoreExtras | None = None,
) -> tuple[Port, ...]:  # fmt: skip
    """The outputs of a program, in order; before the cache.

    `labels` counts the classes of a classifier, `embedding` the numbers of a vector, `extras` is
    what score gives besides log-probabilities.
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
        case ProgramName.SCORE | ProgramName.SCORE_IMAGES:
            return (Port("logprobs", chunk, "float32"), *_score_extras(bucket, extras))
        case ProgramName.CLASSIFY | ProgramName.CLASSIFY_IMAGES:
            return (Port("scores", (bucket.batch, labels), "float32"),)
        case ProgramName.EMBED:
            return (Port("embedding", (bucket.batch, embedding), "float32"),)
        case ProgramName.ENCODE_IMAGE:
            assert vision is not None
            return (Port("soft_tokens", (*chunk, vision.soft_token_size), "float32"),)


def _score_extras(bucket: Bucket, extras: ScoreExtras | None) -> tuple[Port, ...]:
    if extras is None:
        return ()
    chunk = (bucket.batch, bucket.tokens)
    hidden = (extras.layers + 1, *chunk, extras.hidden_size)
    weights = (extras.layers, bucket.batch, extras.heads, bucket.tokens, bucket.cache)
    ports = (Port(HIDDEN_STATES, hidden, "float32"), Port(ATTENTIONS, weights, "float32"))
    return tuple(port for port in ports if port.name in extras.names)


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
