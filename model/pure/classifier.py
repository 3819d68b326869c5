"""Gemma3ForSequenceClassification as an export traces it."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp

from ..cache import KVCache
from ..classification import Gemma3ForSequenceClassification
from ..config import Gemma3TextConfig
from ..image_mask import SoftTokens
from ..lowering.context import LoweringContext
from ..lowering.quantized import UNQUANTIZED, ParameterSpec, Recipe
from .causal_lm import store_order
from .module import Params, PureModule

Array = jax.Array


class SequenceClassifier:
    """Gemma3ForSequenceClassification as pure functions of the weights by name."""

    def __init__(
        self, config: Gemma3TextConfig, labels: int, dtype: jnp.dtype, recipe: Recipe = UNQUANTIZED
    ):
        self.config, self.dtype = config, jnp.dtype(dtype)
        # Without bits: the recipe says how weights are kept.
        own = dataclasses.replace(config, num_labels=labels, bits=None)
        self._module = PureModule(
            lambda rngs: Gemma3ForSequenceClassification(own, self.dtype, rngs=rngs), recipe
        )

    def parameters(self) -> list[ParameterSpec]:
        """Every weight, in the order of the weight store."""
        return sorted(self._module.parameters(), key=lambda spec: store_order(spec.name))

    def checkpoint_parameters(self) -> list[ParameterSpec]:
        """The same as the checkpoint has them, before they are quantised."""
        return sorted(self._module.unquantized(), key=lambda spec: store_order(spec.name))

    def init(self, seed: int) -> dict[str, Array]:
        """Random weights with the config's initializer_range."""
        return self._module.init(seed)

    def scores(
        self, params: Params, tokens: Array, start: Array, length: Array, cache: KVCache,
        context: LoweringContext, soft: SoftTokens | None = None,
    ) -> tuple[Array, KVCache]:  # fmt: skip
        """Logits of the classes [B,C] float32 and the cache; see the module."""
        return self._module.bind(params).extend(tokens, start, length, cache, context, soft)
