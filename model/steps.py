"""What the layers of one kind share in one call: positions, masks and rope tables."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from .attention import Visibility
from .cache import KVCache
from .config import Gemma3TextConfig, LayerType
from .lowering.context import LoweringContext
from .rope import rope_tables

Array = jax.Array


class LayerStep(NamedTuple):
    """What the layers of one kind share in one call: positions, masks and rope tables."""

    start: Array
    """[B] int32, position of each row's first token."""
    length: Array | None
    """[B] int32, valid tokens of each row; None is one token in every row."""
    visible: Visibility
    rope: tuple[Array, Array]


def layer_steps(
    config: Gemma3TextConfig, start: Array, length: Array | None, tokens: int, cache: KVCache,
    context: LoweringContext, groups: Array | None = None, rope_positions: Array | None = None,
) -> dict[LayerType, LayerStep]:  # fmt: skip
    """The step of each kind of layer for a chunk of `tokens` tokens.

    `groups` [B,T] are the chunk's images, see image_groups; None where it has none.
    `rope_positions` [B,T] are the rotary embedding's where they do not go on from `start`.
    """
    positions = start[:, None] + jnp.arange(tokens, dtype=jnp.int32)[None, :]  # [B,T]
    final = jnp.zeros_like(start) if length is None else last_place(length)
    last = start if length is None else start + final
    angles = positions
    if rope_positions is not None:
        angles, last = rope_positions, row_at(rope_positions, final)
    steps: dict[LayerType, LayerStep] = {}
    for kind, layer in zip(config.layer_types, cache, strict=True):
        if kind in steps:
            continue
        slots, window = layer.key.shape[2], config.sliding_window
        visible = Visibility.of(kind, slots, window, start, tokens, groups)
        rope = context.compute_once(*rope_tables(config, kind, angles, last), angles)
        steps[kind] = LayerStep(start, length, visible, rope)
    return steps


def last_place(length: Array) -> Array:
    """The index of the last of `length` [B] valid tokens; 0 in a row without any."""
    return jnp.maximum(length, 1) - 1


def row_at(x: Array, index: Array) -> Array:
    """One token of each row: x [B,T,...], index [B] -> [B,...]."""
    return take_tokens(x, index[:, None])[:, 0]


def take_tokens(x: Array, index: Array) -> Array:
    """Tokens of each row: x [B,T,...], index [B,n] -> [B,n,...]."""
    return jnp.take_along_axis(x, index.reshape(index.shape + (1,) * (x.ndim - 2)), axis=1)
