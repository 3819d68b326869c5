"""Gemma3ForSequenceClassification: the text stack with a linear head over classes."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import nnx

from .cache import KVCache
from .config import Gemma3TextConfig
from .context import LoweringContext
from .decoder import Gemma3TextModel
from .functional import store_order
from .image_mask import SoftTokens
from .pure import Params, PureModule
from .quantized import UNQUANTIZED, ParameterSpec, Recipe
from .text import Linear

Array = jax.Array


def text_lengths(tokens: Array, pad_token_id: int) -> Array:
    """Places up to the rightmost token that is not padding: tokens [B,T] -> [B] int32.

    A row of nothing but padding has one, as in Hugging Face transformers.
    """
    place = jnp.arange(1, tokens.shape[1] + 1, dtype=jnp.int32)
    return jnp.maximum(jnp.max(jnp.where(tokens != pad_token_id, place, 0), axis=1), 1)


class Gemma3ForSequenceClassification(nnx.Module):
    """Scores of classes after the last token of a text."""

    def __init__(
        self, config: Gemma3TextConfig, labels: int, dtype: jnp.dtype, rngs: nnx.Rngs | None
    ):
        self.config = config
        self.model = Gemma3TextModel(config, dtype, rngs)
        shape, axes = (labels, config.hidden_size), ("labels", "pooled")
        self.score = Linear(shape, axes, config, dtype, rngs)

    def __call__(
        self, tokens: Array, start: Array, length: Array, cache: KVCache,
        context: LoweringContext, soft: SoftTokens | None = None,
    ) -> tuple[Array, KVCache]:  # fmt: skip
        """Read a chunk of each row: see Gemma3TextModel.extend for the arguments.

        Returns:
          Logits of the classes [B,C] float32 after the last valid token of each row's chunk, and
          the cache with the chunk. final_logit_softcapping is for tokens and not applied.
        """
        hidden, cache = self.model.extend(tokens, start, length, cache, context, soft)
        last = jnp.maximum(length, 1) - 1
        row = jnp.take_along_axis(hidden, last[:, None, None], axis=1)[:, 0]  # [B,D]
        return self.score(row, context), cache


class SequenceClassifier:
    """Gemma3ForSequenceClassification as pure functions of the weights by name."""

    def __init__(
        self, config: Gemma3TextConfig, labels: int, dtype: jnp.dtype, recipe: Recipe = UNQUANTIZED
    ):
        self.config, self.dtype = config, jnp.dtype(dtype)
        self._module = PureModule(
            lambda rngs: Gemma3ForSequenceClassification(config, labels, self.dtype, rngs), recipe
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
        return self._module.bind(params)(tokens, start, length, cache, context, soft)
