"""Whole texts as one layer sees them, without a cache: for calls of a part on its own."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from .cache import reach, visible_behind
from .config import Gemma3TextConfig, LayerType
from .image_mask import image_groups, visible_ahead
from .rope import rope_tables

Array = jax.Array


class AttentionLayerOutput(NamedTuple):
    """What Gemma3Attention gives."""

    attention_output: Array
    """[B,T,D] float32."""
    attention_weight: Array | None
    """[B,N,T,T] float32 after the softmax, before any dropout; None unless asked for."""


class DecoderLayerOutput(NamedTuple):
    """What Gemma3DecoderLayer gives."""

    hidden_states: Array
    """[B,T,D] float32."""
    attention_weight: Array | None
    """As in AttentionLayerOutput."""


class WholeText(NamedTuple):
    """What a layer of one kind needs to know of whole texts."""

    rope: tuple[Array, Array]
    """Cosines and sines [B,T,H/2]."""
    visible: Array
    """[B,T,T] bool, which tokens each token sees."""

    @classmethod
    def of(
        cls, config: Gemma3TextConfig, kind: LayerType, shape: tuple[int, ...],
        attention_mask: Array | None, position_ids: Array | None, token_type_ids: Array | None,
    ) -> WholeText:  # fmt: skip
        """Of texts whose hidden states are of `shape` [B,T,D]; arguments as in Gemma3TextModel.

        Raises ValueError for an attention_mask of another shape than [B,T].
        """
        rows, tokens = shape[:2]
        valid = jnp.ones((rows, tokens), bool)
        if attention_mask is not None:
            if attention_mask.shape not in ((rows, tokens), (1, tokens)):
                raise ValueError(
                    f"attention_mask: expected [{rows},{tokens}], not 0 where a token counts, got "
                    f"{list(attention_mask.shape)}; windows and the order of tokens are the layer's"
                )
            valid = jnp.broadcast_to(attention_mask.astype(bool), valid.shape)
        index = jnp.cumsum(valid.astype(jnp.int32), axis=1, dtype=jnp.int32) - 1
        positions = jnp.maximum(index, 0)
        if position_ids is not None:
            positions = jnp.broadcast_to(position_ids.astype(jnp.int32), index.shape)
        last = jnp.max(jnp.where(valid, positions, 0), axis=1)
        query, key = index[:, :, None], index[:, None, :]
        if config.use_bidirectional_attention:
            visible = jnp.ones((rows, tokens, tokens), bool)
            if kind == LayerType.SLIDING:
                visible = jnp.abs(query - key) < config.sliding_window // 2 + 1
        else:
            visible = visible_behind(query, key, reach(kind, config.sliding_window))
        if token_type_ids is not None:
            groups = image_groups(token_type_ids == 1)
            column = jnp.arange(tokens, dtype=jnp.int32)
            visible = visible | visible_ahead(groups, groups, column, column)
        return cls(rope_tables(config, kind, positions, last), visible & valid[:, None, :])
