"""The calling convention of programs, version 1: names, dtypes and shapes.

A program is a pure function called as (weights..., inputs..., cache...) -> (outputs...,
cache...). FORMAT.md says what each tensor means. Inputs go by name: a program may lack those with
a neutral value, and have others that have one; readers refuse a manifest that says otherwise than
these functions of the rest.
"""

from __future__ import annotations

import sys
from typing import NamedTuple

from .layout import CacheLayout
from .manifest import Bucket, ProgramName, VisionRecord

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


TOKENS = "tokens"
"""The state of rows that is their token ids by position, [B, cache] int32."""


class Port(NamedTuple):
    """An argument or result before it is placed on a mesh."""

    name: str
    shape: tuple[int, ...]
    dtype: str
    neutral: float | None = None
    """Of an input that a host may leave to this value; None where it must be known."""


class SamplingInput(NamedTuple):
    """A sampling parameter: how people set it, and how a row's value reaches the programs."""

    name: str
    dtype: str
    neutral: float
    """Off, and what a row gets that does not set it."""
    least: float
    most: float
    expected: str
    """The range in words."""
    fed: tuple[float, float]
    """Values that are not neutral are brought between these for the programs."""
    metavar: str
    help: str
    """For the commands."""
    above_least: bool = False
    """Whether the least value itself is out of the range."""
    alone: bool = False
    """Whether it may be set where tokens are not drawn, at temperature 0."""

    @property
    def flag(self) -> str:
        """What commands call it."""
        return "--" + self.name.replace("_", "-")

    @property
    def whole(self) -> bool:
        """Whether its values are integers."""
        return self.dtype != "float32"

    @property
    def default(self) -> float:
        """The neutral value, an integer where values are."""
        return int(self.neutral) if self.whole else float(self.neutral)

    def accepts(self, value: float) -> bool:
        """Whether a value is in the range, and whole where values are; NaN is in none."""
        if self.whole and value != value // 1:
            return False
        return self.least <= value <= self.most and not (self.above_least and value == self.least)


INT32_MAX = 2**31 - 1
UINT32_MAX = 2**32 - 1
SAMPLING = (
    # Logits divided by 1e-6 to 1e6 stay finite in float32, and differences of 1e-3 decisive.
    SamplingInput(
        "temperature", "float32", 0, 0, sys.float_info.max,
        "a finite number of at least 0 (0 is greedy)", (1e-6, 1e6), "T",
        "Randomness; 0, the default, is greedy: always the likeliest token.", alone=True,
    ),
    SamplingInput(
        "top_k", "int32", 0, 0, INT32_MAX, f"0 to {INT32_MAX} (0 is off)", (0, INT32_MAX), "K",
        "Draw from the K likeliest tokens; 0, the default, is off.",
    ),
    SamplingInput(
        "top_p", "float32", 1, 0, 1, "above 0 and at most 1 (1 is off)", (1e-30, 1), "P",
        "Draw from the likeliest tokens that make up P; 1, the default, is off.",
        above_least=True,
    ),
    SamplingInput(
        "min_p", "float32", 0, 0, 1, "between 0 and 1 (0 is off)", (0, 1), "P",
        "Draw from tokens at least P times as likely as the first; 0 is off.",
    ),
    SamplingInput(
        "seed", "uint32", 0, 0, UINT32_MAX, f"between 0 and {UINT32_MAX}", (0, UINT32_MAX), "S",
        "The same seed gives the same text; 0 by default.", alone=True,
    ),
    SamplingInput(
        "repetition_penalty", "float32", 1, 0, sys.float_info.max,
        "a finite number above 0 (1 is off)", (1e-6, 1e6), "R",
        "Divide the logits of tokens that are in the text already by R; 1, the default, is off.",
        above_least=True, alone=True,
    ),
)  # fmt: skip
"""The sampling inputs, in the order in which programs take them after all others. A new one goes
at the end; `python -m gemma3_export.artifacts.sampling_header` writes the C++ side of the table."""


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
    return tuple(Port(each.name, (batch,), each.dtype, each.neutral) for each in SAMPLING)


DRAWING = (
    ProgramName.PREFILL, ProgramName.PREFILL_IMAGES, ProgramName.DECODE, ProgramName.GENERATE,
)  # fmt: skip
"""The programs that draw tokens."""


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

    Quantised ones are followed by their scales, [B, kv_heads, slots]. The other state of the rows
    comes last.
    """
    ports: list[Port] = []
    for index, layer in enumerate(layout.layers):
        shape = (batch, layer.kv_heads, layer.slots)
        for part in ("key", "value"):
            ports.append(Port(f"cache.{index}.{part}", (*shape, layer.head_dim), layer.dtype))
        if layer.scale_dtype is not None:
            for part in ("key_scale", "value_scale"):
                ports.append(Port(f"cache.{index}.{part}", shape, layer.scale_dtype))
    for state in layout.state:
        ports.append(Port(f"cache.{state.name}", (batch, *state.shape), state.dtype))
    return tuple(ports)
