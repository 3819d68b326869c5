"""The manifest: everything a host must know about a bundle, defined once.

The JSON file, its JSON Schema and the readers are all derived from these dataclasses.
Nothing here depends on jax: a host in another language reads the same file.
"""

from __future__ import annotations

import enum
import math
from dataclasses import dataclass, field
from typing import Any

FORMAT_VERSION = 1

ITEMSIZE = {
    "float32": 4, "bfloat16": 2, "float16": 2, "int32": 4, "uint32": 4, "int8": 1, "uint8": 1,
    "bool": 1,
}  # fmt: skip


class ProgramName(enum.StrEnum):
    """What a program computes. Files, logs, buckets and the manifest use these names."""

    PREFILL = "prefill"
    DECODE = "decode"
    GENERATE = "generate"
    SCORE = "score"


class LayerKind(enum.StrEnum):
    """How a layer keeps its keys and values."""

    RING = "ring"
    """`slots` slots, position p lives in slot p % slots (sliding-window layers)."""
    FULL = "full"
    """`slots` slots, position p lives in slot p (global layers)."""


@dataclass(frozen=True)
class Axis:
    """A named mesh axis and its number of devices."""

    name: str
    size: int


@dataclass(frozen=True)
class Mesh:
    """A logical device mesh; devices are numbered in row-major order of the axes."""

    name: str
    axes: tuple[Axis, ...]

    @property
    def devices(self) -> int:
        """Number of devices the mesh needs."""
        return math.prod(axis.size for axis in self.axes)


Spec = tuple[tuple[str, ...], ...]
"""For each dimension the mesh axes it is split over, major first; () is not split."""


@dataclass(frozen=True)
class Tensor:
    """An argument or result of a program: global shape, and how it is split over the mesh."""

    name: str
    shape: tuple[int, ...]
    dtype: str
    spec: Spec

    @property
    def nbytes(self) -> int:
        """Bytes of the whole tensor over all devices, one copy."""
        return math.prod(self.shape) * ITEMSIZE[self.dtype]


@dataclass(frozen=True)
class Weight:
    """A tensor of the weight store: `file` relative to the bundle, `offset` from its start."""

    name: str
    shape: tuple[int, ...]
    dtype: str
    file: str
    offset: int

    @property
    def nbytes(self) -> int:
        """Bytes the tensor occupies in its file."""
        return math.prod(self.shape) * ITEMSIZE[self.dtype]


@dataclass(frozen=True, order=True)
class Bucket:
    """One point of the grid of fixed shapes.

    `tokens` is the chunk length of prefill and score, 1 for decode, and the most tokens one
    call of generate can emit. `cache` is the number of positions a row can hold.
    """

    program: ProgramName
    batch: int
    tokens: int
    cache: int


@dataclass(frozen=True)
class Alias:
    """Result `result` is written into the buffer of the donated argument `argument`.

    Indices count the program's flat arguments (weights, inputs, cache) and flat results
    (outputs, cache).
    """

    argument: int
    result: int


@dataclass(frozen=True)
class Program:
    """A lowered program: called as (weights..., inputs..., cache...) -> (outputs..., cache...).

    `weights` names one of the manifest's weight sets: the tensors to pass, in order.
    """

    mesh: str
    platform: str
    bucket: Bucket
    stablehlo: str
    jaxexport: str
    weights: str
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    cache: tuple[Tensor, ...]
    aliases: tuple[Alias, ...]


@dataclass(frozen=True)
class CacheLayer:
    """Keys and values of one layer, each of shape [batch, kv_heads, slots, head_dim]."""

    kind: LayerKind
    slots: int
    kv_heads: int
    head_dim: int
    dtype: str

    @property
    def bytes_per_row(self) -> int:
        """Bytes of keys and values of one batch row."""
        return 2 * self.kv_heads * self.slots * self.head_dim * ITEMSIZE[self.dtype]


@dataclass(frozen=True)
class CacheLayout:
    """The KV cache of every bucket with this `cache` length."""

    cache: int
    layers: tuple[CacheLayer, ...]

    @property
    def bytes_per_row(self) -> int:
        """Bytes of the whole cache of one batch row."""
        return sum(layer.bytes_per_row for layer in self.layers)

    @property
    def uniform_bytes_per_row(self) -> int:
        """What a row would take if every layer kept all `cache` positions."""
        return sum(
            layer.bytes_per_row // layer.slots * self.cache for layer in self.layers
        )


@dataclass(frozen=True)
class MeshRecord:
    """A mesh the bundle was lowered for, and where each weight goes on it."""

    mesh: Mesh
    weight_specs: dict[str, Spec]
    fallbacks: tuple[str, ...]
    """Sentences saying which dimension was left whole because it does not divide."""


@dataclass(frozen=True)
class ModelRecord:
    """The model the bundle holds; `config` is the normalised Hugging Face configuration."""

    architecture: str
    name: str
    parameters: int
    dtype: str
    vocab_size: int
    max_position_embeddings: int
    sliding_window: int
    bos_token_id: int
    pad_token_id: int
    eos_token_ids: tuple[int, ...]
    config: dict[str, Any]


@dataclass(frozen=True)
class TokenizerRecord:
    """The SentencePiece model of the bundle, and how prompts are prepared with it."""

    path: str
    kind: str = "sentencepiece"
    add_bos: bool = True
    chat_template: str | None = None
    """Bundle path of the Jinja chat template that came with the checkpoint, for reference."""


@dataclass(frozen=True)
class FileRecord:
    """A file of the bundle with its size and SHA-256 (hex)."""

    path: str
    bytes: int
    sha256: str


@dataclass(frozen=True)
class Versions:
    """What the programs were lowered with."""

    gemma3_export: str
    jax: str
    jaxlib: str
    stablehlo: str
    calling_convention: int


@dataclass(frozen=True)
class Manifest:
    """The whole contract of a bundle."""

    format_version: int
    abstract: bool
    """True when the bundle has programs but no weights: it can be inspected, not run."""
    model: ModelRecord
    versions: Versions
    meshes: tuple[MeshRecord, ...]
    platforms: tuple[str, ...]
    caches: tuple[CacheLayout, ...]
    programs: tuple[Program, ...]
    weights: tuple[Weight, ...]
    weight_sets: dict[str, tuple[str, ...]]
    tokenizer: TokenizerRecord | None
    files: tuple[FileRecord, ...] = field(default_factory=tuple)
