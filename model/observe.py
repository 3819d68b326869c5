"""Hidden states and attention weights of every layer, for a forward pass that returns them."""

from __future__ import annotations

from typing import NamedTuple

import jax

Array = jax.Array


class Watch(NamedTuple):
    """What to return."""

    hidden_states: bool = False
    key_positions: int = 0
    """Attention weights over this many positions of keys, from 0 on; 0 keeps none."""


NOTHING = Watch()


class Observed(NamedTuple):
    """What was kept; a tuple is empty where nothing was asked for.

    hidden_states: L+1 times [B,T,D] float32, as in transformers: the embeddings as the first
      layer gets them, what each layer but the last gives, and the last one's after the final norm.
    attentions: L times [B,N,T,P] float32, what each query gives to the key at each position. Those
      of a query add up to 1.
    """

    hidden_states: tuple[Array, ...]
    attentions: tuple[Array, ...]
