"""The text stack: the layers of text.py put together."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import nnx

from .cache import KVCache, visible_both_ways, visible_causally
from .config import Gemma3TextConfig
from .dropout import layer_dropout, layer_keys
from .image_mask import SoftTokens, image_groups, merge_soft_tokens
from .lowering.context import LoweringContext
from .lowering.layers import run_layers
from .observe import NOTHING, Observed, Watch
from .rope import rope_tables
from .steps import LayerStep, last_place, layer_steps
from .text import Gemma3DecoderLayer, Gemma3RMSNorm, Gemma3TextScaledWordEmbedding

Array = jax.Array


class TextDecoder(nnx.Module):
    """Embeddings, decoder layers and the final norm: what programs are made of."""

    def __init__(self, config: Gemma3TextConfig, dtype: jnp.dtype, rngs: nnx.Rngs | None):
        """Random weights with `rngs`; without, abstract ones."""
        self.config = config
        self.embed_tokens = Gemma3TextScaledWordEmbedding(config, dtype, rngs)
        self.layers = nnx.List(
            Gemma3DecoderLayer(config, kind, dtype, rngs) for kind in config.layer_types
        )
        self.norm = Gemma3RMSNorm(config.hidden_size, config.rms_norm_eps, dtype, rngs)

    def get_embedding(self) -> Gemma3TextScaledWordEmbedding:
        """The token embeddings."""
        return self.embed_tokens

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
        """`extend`, and the hidden states and attentions that `watch` asks for."""
        groups = None if soft is None else image_groups(soft.index >= 0)
        x = self.embed(tokens, soft)
        return self.extend_embedded(x, groups, start, length, cache, context, watch)

    def embed(self, tokens: Array, soft: SoftTokens | None = None) -> Array:
        """tokens [B,T] -> scaled embeddings [B,T,D] float32, soft tokens in their places."""
        x = self.embed_tokens(tokens)
        return x if soft is None else merge_soft_tokens(x, soft)

    def extend_embedded(
        self, x: Array, groups: Array | None, start: Array, length: Array | None,
        cache: KVCache, context: LoweringContext, watch: Watch, rope_positions: Array | None = None,
        dropout: Array | None = None,
    ) -> tuple[Array, KVCache, Observed]:  # fmt: skip
        """`observe` of embedded tokens x [B,T,D]; `groups` [B,T] are their images.

        `rope_positions` [B,T] are the rotary embedding's where they do not go on from `start`;
        `dropout` is the key of a call with dropout.
        """
        steps = layer_steps(
            self.config, start, length, x.shape[1], cache, context, groups, rope_positions
        )
        x = context.constrain(x, ("batch", "tokens", "norm"))

        def call(layer: Gemma3DecoderLayer, x: Array, step: LayerStep, state: tuple):
            cache, key = state
            seen = Observed((), ())
            if watch.hidden_states:
                seen = seen._replace(hidden_states=(x,))
            if watch.key_positions:
                positions = watch.key_positions
                weights = layer.attention_weights(x, step, cache, context, positions)
                seen = seen._replace(attentions=(weights,))
            x, cache = layer.extend(x, step, cache, context, layer_dropout(self.config, key))
            return x, (cache, seen)

        layer_states = list(zip(cache, layer_keys(dropout, len(cache)), strict=True))
        x, states = run_layers(call, self.layers, self.config, x, steps, layer_states)
        x = self.norm(x)
        hidden = tuple(one for _, seen in states for one in seen.hidden_states)
        attentions = tuple(one for _, seen in states for one in seen.attentions)
        observed = Observed((*hidden, x) if watch.hidden_states else (), attentions)
        return x, tuple(cache for cache, _ in states), observed

    def encode(
        self, tokens: Array, length: Array, context: LoweringContext, dropout: Array | None = None
    ) -> Array:
        """Read whole texts, in both directions where use_bidirectional_attention asks for it.

        Args:
          tokens: [B,T] int32.
          length: [B] int32, valid tokens of each row; the rest is padding that none of them sees.
          dropout: the key of a call that drops.

        Returns:
          Hidden states after the final norm [B,T,D] float32; those of padding mean nothing.
        """
        size, window = tokens.shape[1], self.config.sliding_window
        both_ways = self.config.use_bidirectional_attention
        positions = jnp.broadcast_to(jnp.arange(size, dtype=jnp.int32), tokens.shape)
        last = last_place(length)
        kinds = sorted(set(self.config.layer_types))
        shared = {
            kind: (
                context.compute_once(*rope_tables(self.config, kind, positions, last), positions),
                visible_both_ways(kind, window, size, length)
                if both_ways
                else visible_causally(kind, window, size),
            )
            for kind in kinds
        }
        x = context.constrain(self.embed_tokens(tokens), ("batch", "tokens", "norm"))

        def call(layer: Gemma3DecoderLayer, x: Array, shared: tuple, key: Array | None):
            (rope, visible), drop = shared, layer_dropout(self.config, key)
            return layer.encode(x, rope, visible, context, drop), None

        keys = layer_keys(dropout, len(self.layers))
        x, _ = run_layers(call, self.layers, self.config, x, shared, keys)
        return self.norm(x)
