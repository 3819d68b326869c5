"""What the KV cache of rows looks like: the part of the manifest that says it."""

from __future__ import annotations

import enum
import math
from dataclasses import dataclass

ITEMSIZE = {
    "float32": 4, "bfloat16": 2, "float16": 2, "int32": 4, "uint32": 4, "int8": 1, "uint8": 1,
    "float8_e4m3fn": 1, "bool": 1,
}  # fmt: skip


class LayerKind(enum.StrEnum):
    """How a layer keeps its keys and values."""

    RING = "ring"
    """`slots` slots, position p lives in slot p % slots (sliding-window layers)."""
    FULL = "full"
    """`slots` slots, position p lives in slot p (global layers)."""


@dataclass(frozen=True)
class CacheLayer:
    """Keys and values of one layer, each of shape [batch, kv_heads, slots, head_dim]."""

    kind: LayerKind
    slots: int
    """Positions the layer keeps for one row."""
    kv_heads: int
    head_dim: int
    dtype: str
    scale_dtype: str | None = None
    """Of the factors [batch, kv_heads, slots] that quantised keys and values are multiplied
    by; null when they are not quantised."""

    @property
    def bytes_per_slot(self) -> int:
        """Bytes of key and value, and their scales, of one position of one batch row."""
        scale = ITEMSIZE[self.scale_dtype] if self.scale_dtype else 0
        return 2 * self.kv_heads * (self.head_dim * ITEMSIZE[self.dtype] + scale)

    @property
    def bytes_per_row(self) -> int:
        """Bytes of all slots of one batch row."""
        return self.slots * self.bytes_per_slot


@dataclass(frozen=True)
class RowState:
    """What rows keep besides keys and values, of shape [batch, *shape], zeros at first.

    A host passes it on from call to call with the cache, whether it knows the name or not. What is
    of positions from a row's own on means nothing.
    """

    name: str
    """The name of the tensor is `cache.<name>`."""
    shape: tuple[int, ...]
    """Of one row."""
    dtype: str

    @property
    def bytes_per_row(self) -> int:
        """Bytes of one batch row."""
        return math.prod(self.shape) * ITEMSIZE[self.dtype]


@dataclass(frozen=True)
class CacheLayout:
    """The KV cache of every bucket with this `cache` length."""

    cache: int
    """Positions a row can hold."""
    layers: tuple[CacheLayer, ...]
    """One entry for each layer of the model, first layer first."""
    state: tuple[RowState, ...] = ()
    """What else goes with the cache."""

    @property
    def bytes_per_row(self) -> int:
        """Bytes of the whole cache of one batch row."""
        return sum(part.bytes_per_row for part in (*self.layers, *self.state))

    @property
    def uniform_bytes_per_row(self) -> int:
        """What a row would take if every layer kept all `cache` positions."""
        layers = sum(layer.bytes_per_slot * self.cache for layer in self.layers)
        return layers + sum(state.bytes_per_row for state in self.state)
