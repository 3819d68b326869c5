"""EmbeddingGemma: the text stack read in both directions, pooled into one vector."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import jax
import jax.numpy as jnp
from flax import nnx

from .config import Gemma3TextConfig
from .context import LoweringContext
from .decoder import Gemma3TextModel
from .functional import store_order
from .pure import Params, PureModule
from .quantized import UNQUANTIZED, ParameterSpec, Recipe
from .text import Linear

Array = jax.Array

_SMALLEST_NORM = 1e-12  # torch.nn.functional.normalize


@dataclass(frozen=True)
class DenseLayer:
    """The shape of a Dense layer of sentence-transformers with the identity as activation."""

    size: int
    """Numbers it gives."""
    bias: bool


class Gemma3TextEmbedding(nnx.Module):
    """Gemma3TextModel, the mean over a text's tokens, dense layers, and length 1."""

    def __init__(
        self,
        config: Gemma3TextConfig,
        layers: Sequence[DenseLayer],
        dtype: jnp.dtype,
        rngs: nnx.Rngs | None,
    ):
        self.model = Gemma3TextModel(config, dtype, rngs=rngs)
        dense, width = [], config.hidden_size
        for number, layer in enumerate(layers):
            # Like an MLP: the first widens, split over its outputs; the second adds up.
            axes = ("embed", "ffw") if number % 2 else ("ffw", "embed")
            shape, width = (layer.size, width), layer.size
            dense.append(Linear(shape, axes, config, dtype, rngs, bias=layer.bias))
        self.dense = nnx.List(dense)

    def __call__(self, tokens: Array, length: Array, context: LoweringContext) -> Array:
        """tokens [B,T] int32, valid tokens length [B] int32 -> unit vectors [B,E] float32."""
        hidden = self.model.encode(tokens, length, context)  # [B,T,D]
        valid = jnp.arange(tokens.shape[1], dtype=jnp.int32)[None, :] < length[:, None]
        total = jnp.sum(jnp.where(valid[:, :, None], hidden, 0.0), axis=1)
        x = total / jnp.maximum(length, 1).astype(jnp.float32)[:, None]
        for layer in self.dense:
            x = layer(x, context)
        norm = jnp.sqrt(jnp.sum(x * x, axis=-1, keepdims=True))
        return x / jnp.maximum(norm, _SMALLEST_NORM)


class TextEmbedder:
    """Gemma3TextEmbedding as a pure function of the weights by name."""

    def __init__(
        self, config: Gemma3TextConfig, layers: Sequence[DenseLayer], dtype: jnp.dtype,
        recipe: Recipe = UNQUANTIZED,
    ):  # fmt: skip
        self.config, self.dtype = config, jnp.dtype(dtype)
        plain = replace(config, bits=None)  # the recipe says how weights are kept
        self._module = PureModule(
            lambda rngs: Gemma3TextEmbedding(plain, layers, self.dtype, rngs), recipe
        )

    def parameters(self) -> list[ParameterSpec]:
        """Every weight, in the order of the weight store."""
        return sorted(
            self._module.parameters(), key=lambda spec: (store_order(spec.name), spec.name)
        )

    def checkpoint_parameters(self) -> list[ParameterSpec]:
        """The same as the checkpoint has them, before they are quantised."""
        return sorted(
            self._module.unquantized(), key=lambda spec: (store_order(spec.name), spec.name)
        )

    def init(self, seed: int) -> dict[str, Array]:
        """Random weights with the config's initializer_range."""
        return self._module.init(seed)

    def embed(
        self, params: Params, tokens: Array, length: Array, context: LoweringContext
    ) -> Array:
        """Unit vectors [B,E] float32 of texts; see the module."""
        return self._module.bind(params)(tokens, length, context)
