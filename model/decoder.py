"""Gemma3TextModel and Gemma3ForCausalLM: the layers of text.py put together."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from .cache import KVCache, LayerCache, init_cache, visible_both_ways
from .config import Gemma3TextConfig
from .context import LoweringContext, softcap
from .image_mask import SoftTokens, image_groups, merge_soft_tokens
from .observe import NOTHING, Observed, Watch
from .rope import default_frequencies, rope_tables
from .stack import run_layers
from .text import (
    Gemma3DecoderLayer,
    Gemma3RMSNorm,
    Gemma3TextScaledWordEmbedding,
    LayerStep,
    Linear,
    layer_steps,
)

Array = jax.Array


class Gemma3TextModel(nnx.Module):
    """Embeddings, decoder layers and the final norm."""

    def __init__(self, config: Gemma3TextConfig, dtype: jnp.dtype, rngs: nnx.Rngs | None):
        self.config = config
        self.embed_tokens = Gemma3TextScaledWordEmbedding(config, dtype, rngs)
        self.layers = nnx.List(
            Gemma3DecoderLayer(config, kind, dtype, rngs) for kind in config.layer_types
        )
        self.norm = Gemma3RMSNorm(config.hidden_size, config.rms_norm_eps, dtype, rngs)

    @property
    def default_frequencies(self) -> np.ndarray:
        """Unscaled inverse rope frequencies of the global layers, [head_dim / 2] float32."""
        return default_frequencies(self.config)

    def extend(
        self, tokens: Array, start: Array, length: Array | None, cache: KVCache,
        context: LoweringContext, soft: SoftTokens | None = None,
    ) -> tuple[Array, KVCache]:  # fmt: skip
        """Read on by a chunk of tokens.

        Args:
          tokens: [B,T] int32.
          start: [B] int32, position of each row's first token; 0..start-1 are in the cache.
          length: [B] int32, valid tokens of each row; the rest of the chunk is padding. None
            when the chunk is one token and every row has it.
          soft: the chunk's images; their tokens see each other. Not while decoding.

        Returns:
          Hidden states after the final norm [B,T,D] float32, and the cache with the chunk.
        """
        return self.observe(tokens, start, length, cache, context, soft, NOTHING)[:2]

    def observe(
        self, tokens: Array, start: Array, length: Array | None, cache: KVCache,
        context: LoweringContext, soft: SoftTokens | None, watch: Watch,
    ) -> tuple[Array, KVCache, Observed]:  # fmt: skip
        """`extend`, and what `watch` asks for of what happens on the way."""
        groups = None if soft is None else image_groups(soft.index >= 0)
        x = self.embed(tokens, soft)
        return self.extend_embedded(x, groups, start, length, cache, context, watch)

    def embed(self, tokens: Array, soft: SoftTokens | None = None) -> Array:
        """tokens [B,T] -> scaled embeddings [B,T,D] float32, soft tokens in their places."""
        x = self.embed_tokens(tokens)
        return x if soft is None else merge_soft_tokens(x, soft)

    def extend_embedded(
        self, x: Array, groups: Array | None, start: Array, length: Array | None,
        cache: KVCache, context: LoweringContext, watch: Watch,
    ) -> tuple[Array, KVCache, Observed]:  # fmt: skip
        """`observe` of embedded tokens x [B,T,D]; `groups` [B,T] are their images."""
        steps = layer_steps(self.config, start, length, x.shape[1], cache, groups)
        x = context.constrain(x, ("batch", "tokens", "norm"))

        def call(layer: Gemma3DecoderLayer, x: Array, step: LayerStep, cache: LayerCache):
            seen = Observed((), ())
            if watch.hidden_states:
                seen = seen._replace(hidden_states=(x,))
            if watch.key_positions:
                positions = watch.key_positions
                weights = layer.attention_weights(x, step, cache, context, positions)
                seen = seen._replace(attentions=(weights,))
            x, cache = layer(x, step, cache, context)
            return x, (cache, seen)

        x, states = run_layers(call, self.layers, self.config, x, steps, cache)
        x = self.norm(x)
        hidden = tuple(one for _, seen in states for one in seen.hidden_states)
        attentions = tuple(one for _, seen in states for one in seen.attentions)
        observed = Observed((*hidden, x) if watch.hidden_states else (), attentions)
        return x, tuple(cache for cache, _ in states), observed

    def encode(self, tokens: Array, length: Array, context: LoweringContext) -> Array:
        """Read whole texts in both directions, as use_bidirectional_attention asks.

        Args:
          tokens: [B,T] int32.
          length: [B] int32, valid tokens of each row; the rest is padding that none of them sees.

        Returns:
          Hidden states after the final norm [B,T,D] float32; those of padding mean nothing.
        """
        size, window = tokens.shape[1], self.config.sliding_window
        positions = jnp.broadcast_to(jnp.arange(size, dtype=jnp.int32), tokens.shape)
        last = jnp.maximum(length, 1) - 1
        kinds = sorted(set(self.config.layer_types))
        shared = {
            kind: (
                rope_tables(self.config, kind, positions, last),
                visible_both_ways(kind, window, size, length),
            )
            for kind in kinds
        }
        x = context.constrain(self.embed_tokens(tokens), ("batch", "tokens", "norm"))

        def call(layer: Gemma3DecoderLayer, x: Array, shared: tuple, state: None):
            rope, visible = shared
            return layer.encode(x, rope, visible, context), state

        x, _ = run_layers(call, self.layers, self.config, x, shared, [None] * len(self.layers))
        return self.norm(x)


class Gemma3ForCausalLM(nnx.Module):
    """The text model with its language-modelling head, tied or not."""

    def __init__(self, config: Gemma3TextConfig, dtype: jnp.dtype, rngs: nnx.Rngs | None):
        self.config = config
        self.model = Gemma3TextModel(config, dtype, rngs)
        if not config.tie_word_embeddings:
            shape = (config.vocab_size, config.hidden_size)
            self.lm_head = Linear(shape, ("vocab_out", "embed"), config, dtype, rngs)

    def apply_lm_head(self, hidden: Array, context: LoweringContext) -> Array:
        """hidden [...,D] -> logits [...,V] float32, with final_logit_softcapping where set."""
        if self.config.tie_word_embeddings:
            weight = self.model.embed_tokens.weight.get_value()
            logits = context.product(hidden, weight, "embed to vocab")
        else:
            logits = self.lm_head(hidden, context)
        return softcap(logits, self.config.final_logit_softcapping)

    def init_cache(self, batch_size: int, max_length: int, dtype: jnp.dtype) -> KVCache:
        """A fresh cache for rows of up to `max_length` positions."""
        return init_cache(self.config, batch_size, max_length, dtype)
