"""Gemma3TextEmbedding as an export traces it."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from ..config import Gemma3TextConfig
from ..embedding import EmbeddingHead, Gemma3TextEmbedding
from ..lowering.context import LoweringContext
from ..lowering.recipes import UNQUANTIZED, Recipe
from .module import Params, PureModule
from .order import text_order

Array = jax.Array


class TextEmbedder(PureModule[Gemma3TextEmbedding]):
    """Gemma3TextEmbedding as a pure function of the weights by name."""

    def __init__(
        self, config: Gemma3TextConfig, head: EmbeddingHead, dtype: jnp.dtype,
        recipe: Recipe = UNQUANTIZED,
    ):  # fmt: skip
        self.config, self.dtype = config, jnp.dtype(dtype)
        super().__init__(
            lambda rngs: Gemma3TextEmbedding(config, head, self.dtype, rngs), text_order, recipe
        )

    def embed(
        self, params: Params, tokens: Array, length: Array, context: LoweringContext
    ) -> Array:
        """Vectors [B,E] float32 of texts; see the module."""
        return self.bind(params)(tokens, length, context)
