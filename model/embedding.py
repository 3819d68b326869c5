"""Embedding models: the text stack read whole, pooled into one vector, and what follows it.

EmbeddingGemma reads in both directions; a checkpoint whose config does not ask for that is read
from left to right. Pooling, dense layers and normalising are those of sentence-transformers.
"""

from __future__ import annotations

import enum
from collections.abc import Callable
from dataclasses import dataclass

import jax
import jax.numpy as jnp
from flax import nnx

from .config import Gemma3TextConfig
from .decoder import TextDecoder
from .lowering.context import LoweringContext
from .text import Linear

Array = jax.Array

_SMALLEST_NORM = 1e-12  # torch.nn.functional.normalize


class Pooling(enum.StrEnum):
    """How the hidden states of a text become one vector, by sentence-transformers' names."""

    CLS = "cls"
    """The first token's."""
    MAX = "max"
    """The largest of each number."""
    MEAN = "mean"
    MEAN_SQRT_LENGTH = "mean_sqrt_len_tokens"
    """Their sum over the square root of the number of tokens."""
    WEIGHTED_MEAN = "weightedmean"
    """The mean in which the token at place i, from 1, counts i times."""
    LAST_TOKEN = "lasttoken"


class Activation(enum.StrEnum):
    """What follows a dense layer, by the names of torch's classes."""

    IDENTITY = "Identity"
    TANH = "Tanh"
    RELU = "ReLU"
    GELU = "GELU"
    SIGMOID = "Sigmoid"
    SILU = "SiLU"


_FUNCTIONS: dict[Activation, Callable[[Array], Array]] = {
    Activation.TANH: jnp.tanh,
    Activation.RELU: jax.nn.relu,
    Activation.GELU: lambda x: jax.nn.gelu(x, approximate=False),
    Activation.SIGMOID: jax.nn.sigmoid,
    Activation.SILU: jax.nn.silu,
}


@dataclass(frozen=True)
class DenseLayer:
    """The shape of a Dense layer of sentence-transformers."""

    size: int
    """Numbers it gives."""
    bias: bool
    activation: Activation = Activation.IDENTITY


@dataclass(frozen=True)
class Normalize:
    """Scales a vector to length 1."""


@dataclass(frozen=True)
class EmbeddingHead:
    """What makes one vector of a text's hidden states."""

    pooling: tuple[Pooling, ...] = (Pooling.MEAN,)
    """Vectors that are joined, in this order."""
    layers: tuple[DenseLayer | Normalize, ...] = (Normalize(),)
    """What follows, in this order."""

    @property
    def dense(self) -> tuple[DenseLayer, ...]:
        """The dense layers; the weights of number N are `dense.N.weight` and `.bias`."""
        return tuple(layer for layer in self.layers if isinstance(layer, DenseLayer))

    def size(self, hidden_size: int) -> int:
        """Numbers in the vector."""
        return self.dense[-1].size if self.dense else len(self.pooling) * hidden_size


def pool(mode: Pooling, hidden: Array, length: Array) -> Array:
    """hidden [B,T,D], of which length [B] int32 tokens count -> [B,D] float32.

    Source: the module Pooling of sentence-transformers 5.4, for a text on its own. A row of
    length 0 gives finite numbers that mean nothing.
    """
    index = jnp.arange(hidden.shape[1], dtype=jnp.int32)
    valid = (index[None, :] < length[:, None])[:, :, None]  # [B,T,1]
    match mode:
        case Pooling.CLS:
            return hidden[:, 0]
        case Pooling.LAST_TOKEN:
            last = jnp.maximum(length - 1, 0)[:, None, None]
            return jnp.take_along_axis(hidden, last, axis=1)[:, 0]
        case Pooling.MAX:
            largest = jnp.max(jnp.where(valid, hidden, -jnp.inf), axis=1)
            return jnp.where(length[:, None] > 0, largest, 0.0)
        case Pooling.WEIGHTED_MEAN:
            weights = (index + 1).astype(jnp.float32)[None, :, None]
            total = jnp.sum(jnp.where(valid, hidden * weights, 0.0), axis=1)
            return total / (_count(length) * (_count(length) + 1.0) / 2.0)
        case Pooling.MEAN | Pooling.MEAN_SQRT_LENGTH:
            total = jnp.sum(jnp.where(valid, hidden, 0.0), axis=1)
            count = _count(length)
            return total / (count if mode == Pooling.MEAN else jnp.sqrt(count))


def _count(length: Array) -> Array:
    """Tokens of each text, [B,1] float32; 1 where there are none."""
    return jnp.maximum(length, 1).astype(jnp.float32)[:, None]


class Gemma3TextEmbedding(nnx.Module):
    """The text stack, pooled over a text's tokens, and the layers of an EmbeddingHead."""

    def __init__(
        self,
        config: Gemma3TextConfig,
        head: EmbeddingHead,
        dtype: jnp.dtype,
        rngs: nnx.Rngs | None,
    ):
        self.model = TextDecoder(config, dtype, rngs)
        self.head = head
        dense, width = [], len(head.pooling) * config.hidden_size
        for number, layer in enumerate(head.dense):
            # Like an MLP: the first widens, split over its outputs; the second adds up.
            axes = ("embed", "ffw") if number % 2 else ("ffw", "embed")
            shape, width = (layer.size, width), layer.size
            dense.append(Linear(shape, axes, config, dtype, rngs, bias=layer.bias))
        self.dense = nnx.List(dense)

    def __call__(self, tokens: Array, length: Array, context: LoweringContext) -> Array:
        """tokens [B,T] int32, valid tokens length [B] int32 -> vectors [B,E] float32."""
        hidden = self.model.encode(tokens, length, context)  # [B,T,D]
        pooled = [pool(mode, hidden, length) for mode in self.head.pooling]
        x = pooled[0] if len(pooled) == 1 else jnp.concatenate(pooled, axis=-1)
        linears = iter(self.dense)
        for layer in self.head.layers:
            if isinstance(layer, Normalize):
                norm = jnp.sqrt(jnp.sum(x * x, axis=-1, keepdims=True))
                x = x / jnp.maximum(norm, _SMALLEST_NORM)
                continue
            x = next(linears)(x, context)
            if layer.activation in _FUNCTIONS:
                x = _FUNCTIONS[layer.activation](x)
        return x
