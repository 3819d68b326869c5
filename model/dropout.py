"""Dropout of attention probabilities, for training alone.

A model drops after flax.nnx's `model.train()` where config.attention_dropout is not 0; each call
then takes random numbers from the stream `dropout` of its `rngs`.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from .config import Gemma3TextConfig

Array = jax.Array


class Dropout(NamedTuple):
    """What one layer drops in one call."""

    rate: float
    """The share of probabilities that become 0, below 1."""
    key: Array

    def drop(self, weights: Array, part: int) -> Array:
        """weights [...] after the softmax, some 0 and the rest divided by 1 - rate.

        Each `part` of one softmax draws its own random numbers.
        """
        key = jax.random.fold_in(self.key, part)
        mask = jax.random.bernoulli(key, 1.0 - self.rate, weights.shape)
        return jnp.where(mask, weights / (1.0 - self.rate), 0.0)


def drop(weights: Array, dropout: Dropout | None, part: int = 0) -> Array:
    """`dropout` applied to weights [...], where there is any."""
    return weights if dropout is None else dropout.drop(weights, part)


def dropout_key(
    config: Gemma3TextConfig, deterministic: bool, rngs: nnx.Rngs | None
) -> Array | None:
    """The key of one call, None for a call that drops nothing.

    Raises ValueError where the call is to drop and `rngs` has no stream for it.
    """
    if deterministic or config.attention_dropout == 0:
        return None
    stream = getattr(rngs, "dropout", None)
    if stream is None:
        raise ValueError(
            f"attention_dropout of {config.attention_dropout} after train() needs random numbers: "
            f"pass rngs=nnx.Rngs(dropout=SEED), or call eval() first"
        )
    return stream()


def layer_dropout(config: Gemma3TextConfig, key: Array | None) -> Dropout | None:
    """The dropout of a layer, of its own key; None without one."""
    return None if key is None else Dropout(config.attention_dropout, key)


def layer_keys(key: Array | None, layers: int) -> list[Array | None]:
    """A key for each layer, or None for each."""
    return [None] * layers if key is None else list(jax.random.split(key, layers))
