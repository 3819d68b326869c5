"""The boundary of the model: pure functions of a dictionary of weights. flax stays behind it."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import nnx

from ..cache import KVCache
from ..config import Gemma3TextConfig
from ..decoder import TextDecoder
from ..head import LanguageModel
from ..image_mask import SoftTokens
from ..lowering.context import LoweringContext
from ..lowering.recipes import UNQUANTIZED, Recipe
from ..observe import Observed, Watch
from .module import Params, PureModule
from .order import text_order

Array = jax.Array


class CausalLM(PureModule[LanguageModel[TextDecoder]]):
    """The text model with its head: `forward` and `logits` take the weights by name."""

    def __init__(self, config: Gemma3TextConfig, dtype: jnp.dtype, recipe: Recipe = UNQUANTIZED):
        self.config, self.dtype = config, jnp.dtype(dtype)
        super().__init__(self._build_module, text_order, recipe)

    def _build_module(self, rngs: nnx.Rngs | None) -> LanguageModel[TextDecoder]:
        decoder = TextDecoder(self.config, self.dtype, rngs)
        return LanguageModel(decoder, self.config, self.dtype, rngs)

    def forward(
        self, params: Params, tokens: Array, start: Array, length: Array | None, cache: KVCache,
        context: LoweringContext, soft: SoftTokens | None = None,
    ) -> tuple[Array, KVCache]:  # fmt: skip
        """Hidden states [B,T,D] after the final norm, and the updated cache.

        tokens [B,T], start [B] and length [B] are int32; see TextDecoder.extend.
        """
        model = self.bind(params).model
        return model.extend(tokens, start, length, cache, context, soft)

    def observe(
        self, params: Params, tokens: Array, start: Array, length: Array, cache: KVCache,
        context: LoweringContext, soft: SoftTokens | None, watch: Watch,
    ) -> tuple[Array, KVCache, Observed]:  # fmt: skip
        """`forward`, and what `watch` asks for."""
        model = self.bind(params).model
        return model.observe(tokens, start, length, cache, context, soft, watch)

    def logits(self, params: Params, hidden: Array, context: LoweringContext) -> Array:
        """hidden [...,D] -> logits [...,V] float32."""
        return self.bind(params).apply_lm_head(hidden, context)
