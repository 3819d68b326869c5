"""What tokens of an image may see: each other, ahead as well as behind.

A group is a run of neighbouring soft tokens. As in transformers 5.23
(`create_masks_for_vision_model`), query i sees key j

    on full layers     iff j <= i or same_group(i, j)
    on sliding layers  iff (j <= i or same_group(i, j)) and j > i - W

so a token sees all that follows in its image however far, but on sliding layers only W - 1 tokens
back, even within its image. Decoding sees no group: it has one token at a time.

A group must not be split between two calls. The first layer's output of its first token depends
on its last token, so a call that lacks the end of a group cannot give any later layer the right
input: there is no order of layers within calls that fixes this. Within one call the split between
old cache and new keys is exact for any size of group, also one larger than a ring, because a
call's own keys are attended directly and the ring takes the last W of them afterwards.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

Array = jax.Array

NO_GROUP = -1


class SoftTokens(NamedTuple):
    """The images of a chunk: what they are, and where.

    values: [M,D] float32, soft tokens of all images that a call brings, end to end.
    index: [B,T] int32, which of them stands at each place; negative for text and padding. A run
      of places that are not negative is an image, and must be whole in the chunk.
    """

    values: Array
    index: Array


def image_groups(is_soft: Array) -> Array:
    """Group of each token of a chunk, [B,T] int32: 0, 1, ... by runs, NO_GROUP for text.

    Args:
      is_soft: [B,T] bool, where soft tokens stand (not the tokens that begin and end an image).
    """
    previous = jnp.pad(is_soft, ((0, 0), (1, 0)))[:, :-1]
    runs = jnp.cumsum((is_soft & ~previous).astype(jnp.int32), axis=1, dtype=jnp.int32)
    return jnp.where(is_soft, runs - 1, NO_GROUP)


def visible_ahead(query_group: Array, key_group: Array, query: Array, key: Array) -> Array:
    """Which later tokens of its image each token sees: [B,q,k] bool.

    Args:
      query_group, key_group: [B,q] and [B,k] int32, as image_groups gives them.
      query, key: [q] and [k] int32, their places in the chunk.
    """
    same = (query_group[:, :, None] == key_group[:, None, :]) & (query_group >= 0)[:, :, None]
    return same & (key[None, :] > query[:, None])


def merge_soft_tokens(embeddings: Array, soft: SoftTokens) -> Array:
    """Embedded tokens [B,T,D] float32, already scaled, with soft tokens in their places."""
    tokens = soft.values[jnp.maximum(soft.index, 0)]
    return jnp.where((soft.index >= 0)[:, :, None], tokens, embeddings)
