"""Gemma3TextEmbedding as an export traces it."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp

from ..config import Gemma3TextConfig
from ..embedding import EmbeddingHead, Gemma3TextEmbedding
from ..lowering.context import LoweringContext
from ..lowering.quantized import UNQUANTIZED, ParameterSpec, Recipe
from .causal_lm import store_order
from .module import Params, PureModule

Array = jax.Array


class TextEmbedder:
    """Gemma3TextEmbedding as a pure function of the weights by name."""

    def __init__(
        self, config: Gemma3TextConfig, head: EmbeddingHead, dtype: jnp.dtype,
        recipe: Recipe = UNQUANTIZED,
    ):  # fmt: skip
        self.config, self.dtype = config, jnp.dtype(dtype)
        plain = dataclasses.replace(config, bits=None)  # the recipe says how weights are kept
        self._module = PureModule(
            lambda rngs: Gemma3TextEmbedding(plain, head, self.dtype, rngs), recipe
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
        """Vectors [B,E] float32 of texts; see the module."""
        return self._module.bind(params)(tokens, length, context)
