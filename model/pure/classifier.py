"""The text model with a head over classes as an export traces it."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
from flax import nnx

from ..cache import KVCache
from ..config import Gemma3TextConfig
from ..decoder import TextDecoder
from ..head import Classifier
from ..image_mask import SoftTokens
from ..lowering.context import LoweringContext
from ..lowering.recipes import UNQUANTIZED, Recipe
from ..steps import last_place
from .module import Params, PureModule
from .order import text_order

Array = jax.Array


class SequenceClassifier(PureModule[Classifier[TextDecoder]]):
    """The text model with a head over classes: `scores` takes the weights by name."""

    def __init__(
        self, config: Gemma3TextConfig, labels: int, dtype: jnp.dtype, recipe: Recipe = UNQUANTIZED
    ):
        self.config, self.dtype = dataclasses.replace(config, num_labels=labels), jnp.dtype(dtype)
        super().__init__(self._build_module, text_order, recipe)

    def _build_module(self, rngs: nnx.Rngs | None) -> Classifier[TextDecoder]:
        decoder = TextDecoder(self.config, self.dtype, rngs)
        return Classifier(decoder, self.config, self.dtype, rngs)

    def scores(
        self, params: Params, tokens: Array, start: Array, length: Array, cache: KVCache,
        context: LoweringContext, soft: SoftTokens | None = None,
    ) -> tuple[Array, KVCache]:  # fmt: skip
        """Read a chunk of each row: see TextDecoder.extend for the arguments.

        Returns:
          Logits of the classes [B,C] float32 after the last valid token of each row's chunk, and
          the cache with the chunk.
        """
        module = self.bind(params)
        hidden, cache = module.model.extend(tokens, start, length, cache, context, soft)
        return module.score_at(hidden, last_place(length), context), cache
