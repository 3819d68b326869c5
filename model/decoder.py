"""Gemma3TextModel and Gemma3ForCausalLM: the layers of text.py put together."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from .arguments import require_one_dtype
from .batch import beyond_limits, last_place, read_batch
from .cache import KVCache, visible_both_ways, visible_causally
from .config import Gemma3TextConfig
from .dropout import dropout_key, layer_dropout, layer_keys
from .generation import GenerationMixin
from .head import LanguageModelHead
from .image_mask import SoftTokens, image_groups, merge_soft_tokens
from .loading import quantize_weights, require_bits
from .lowering.context import LoweringContext, here
from .lowering.layers import run_layers
from .observe import NOTHING, Observed, Watch
from .outputs import Gemma3CausalLMOutputWithPast, Gemma3ModelOutputWithPast
from .past import TransformerCache
from .rope import local_frequencies, rope_tables
from .steps import LayerStep, layer_steps
from .text import (
    Gemma3DecoderLayer,
    Gemma3RMSNorm,
    Gemma3TextScaledWordEmbedding,
    Linear,
)

Array = jax.Array


class Gemma3TextModel(nnx.Module, GenerationMixin):
    """Embeddings, decoder layers and the final norm.

    `model(input_ids, ...)` is for people, `extend` and `encode` are what programs are made of.
    """

    def __init__(
        self, config: Gemma3TextConfig, dtype: jnp.dtype = jnp.bfloat16, param_dtype: Any = None,
        precision: Any = None, *, rngs: nnx.Rngs | None = None,
    ):  # fmt: skip
        """Random weights with `rngs`, in config.bits; without, abstract ones: see load_weights.

        Drops nothing until `train()` is called; see dropout.py. Raises TypeError for a param_dtype
        that is not dtype, and for a precision: there is one dtype.
        """
        require_one_dtype(dtype, param_dtype, precision)
        self.config, self.dtype = config, jnp.dtype(dtype)
        self.deterministic = True
        self.embed_tokens = Gemma3TextScaledWordEmbedding(config, dtype, rngs)
        self.layers = nnx.List(
            Gemma3DecoderLayer(config, kind, dtype, rngs) for kind in config.layer_types
        )
        self.norm = Gemma3RMSNorm(config.hidden_size, config.rms_norm_eps, dtype, rngs)
        if rngs is not None:
            quantize_weights(self)

    @property
    def text_config(self) -> Gemma3TextConfig:
        """Its own config."""
        return self.config

    @property
    def default_frequencies(self) -> np.ndarray:
        """The rotary table of sliding layers, [granted_freq_max_position_embedding, head_dim].

        For each position the cosines of its angles, then the sines, float32, not to be written to.
        For people: layers compute what they need of it. It is kept until another is asked for.
        """
        frequencies = tuple(local_frequencies(self.config).tolist())
        return _rotary_table(frequencies, self.config.granted_freq_max_position_embedding)

    def __call__(
        self, input_ids: Array | None = None, inputs_embeds: Array | None = None,
        attention_mask: Array | None = None, position_ids: Array | None = None,
        token_type_ids: Array | None = None, past_key_values: TransformerCache | None = None,
        output_attentions: bool | None = None, output_hidden_states: bool | None = None,
        rngs: nnx.Rngs | None = None,
    ) -> Gemma3ModelOutputWithPast:  # fmt: skip
        """Read tokens; padding may stand on either side of them.

        Args:
          input_ids: [B,T] int32.
          inputs_embeds: [B,T,D] in their place, which are not scaled.
          attention_mask: [B,T] or, with a cache, all columns there will be; not 0 where a token
            counts. Without one every token counts, but for the padding that the cache knows of.
          position_ids: [B,T] int32 for the rotary embedding. Where a token stands in the cache
            follows from the cache alone.
          token_type_ids: [B,T], 1 where a soft token of an image stands. Runs see themselves.
          past_key_values: of init_cache or the last call, extended in the output. Without one
            the output has the cache of these T tokens alone, where config.use_cache says so.
          output_attentions, output_hidden_states: None is what the config says.
          rngs: random streams, of which training with attention_dropout needs `dropout`.

        Raises ValueError for both or neither of input_ids and inputs_embeds, for a call longer
        than config.granted_mask_max_position_embedding, for a mask of another shape, and for more
        tokens than the cache or config.freq_max_position_embeddings has positions for. While
        tracing, how many tokens a row has is not known: a row that has too many gets NaN for its
        last_hidden_state and logits, and the cache counts more positions than max_length.
        """
        if (input_ids is None) == (inputs_embeds is None):
            raise ValueError("pass input_ids or inputs_embeds, and not both")
        if self.config.use_bidirectional_attention:
            given = (position_ids, token_type_ids, past_key_values)
            if any(one is not None for one in given) or output_attentions or output_hidden_states:
                raise ValueError("a bidirectional model takes input_ids and attention_mask alone")
            return self._read_both_ways(input_ids, attention_mask, rngs)
        if inputs_embeds is None:
            assert input_ids is not None
            inputs_embeds = self.embed(input_ids)
        return self.read(
            inputs_embeds, input_ids, attention_mask, position_ids, token_type_ids,
            past_key_values, output_attentions, output_hidden_states, rngs,
        )  # fmt: skip

    def read(
        self, embedded: Array, input_ids: Array | None, attention_mask: Array | None,
        position_ids: Array | None, token_type_ids: Array | None,
        past_key_values: TransformerCache | None, output_attentions: bool | None,
        output_hidden_states: bool | None, rngs: nnx.Rngs | None,
    ) -> Gemma3ModelOutputWithPast:  # fmt: skip
        """A call with its tokens embedded [B,T,D]; input_ids only tell padding."""
        rows, tokens = embedded.shape[:2]
        self._require_runnable(tokens)
        cache = past_key_values or self.init_cache(rows, tokens, starts=0)
        batch = read_batch(tokens, cache, input_ids, attention_mask, position_ids)
        beyond = beyond_limits(batch, cache, self.config)
        groups = None
        if token_type_ids is not None:
            groups = batch.gather(image_groups(token_type_ids == 1))
        watch = self._watch(output_attentions, output_hidden_states, cache)
        hidden, layers, seen = self.extend_embedded(
            batch.gather(embedded.astype(jnp.float32)), groups, batch.start, batch.length,
            cache.layers, here(), watch, batch.positions,
            dropout_key(self.config, self.deterministic, rngs),
        )  # fmt: skip
        hidden = jnp.where(beyond[:, None, None], jnp.nan, hidden)
        past = dataclasses.replace(
            cache, layers=layers, positions=batch.start + batch.length,
            columns=cache.columns + tokens,
        )  # fmt: skip
        seen = batch.restore_observed(seen, within=past_key_values is None)
        return Gemma3ModelOutputWithPast(
            last_hidden_state=batch.restore(hidden),
            past_key_values=past if past_key_values or self.config.use_cache else None,
            hidden_states=seen.hidden_states if watch.hidden_states else None,
            attentions=seen.attentions if watch.key_positions else None,
        )

    def _require_runnable(self, tokens: int) -> None:
        """ValueError for a call of too many tokens, and for weights in other bits than wanted."""
        most = self.config.granted_mask_max_position_embedding
        if tokens > most:
            raise ValueError(f"a call of {tokens} tokens: the config grants at most {most}")
        require_bits(self.config, self.layers[0].mlp.down_proj.weight.get_value())

    def _read_both_ways(
        self, input_ids: Array | None, attention_mask: Array | None, rngs: nnx.Rngs | None
    ) -> Gemma3ModelOutputWithPast:
        """A call of a model with use_bidirectional_attention, which keeps no cache."""
        if input_ids is None:
            raise ValueError("a bidirectional model takes input_ids, not inputs_embeds")
        self._require_runnable(input_ids.shape[1])
        empty = self.init_cache(*input_ids.shape, starts=0)
        batch = read_batch(input_ids.shape[1], empty, input_ids, attention_mask, None)
        dropout = dropout_key(self.config, self.deterministic, rngs)
        hidden = self.encode(batch.gather(input_ids), batch.length, here(), dropout)
        return Gemma3ModelOutputWithPast(last_hidden_state=batch.restore(hidden))

    def _watch(
        self, attentions: bool | None, hidden_states: bool | None, cache: TransformerCache
    ) -> Watch:
        config = self.config
        attentions = config.output_attentions if attentions is None else attentions
        hidden_states = config.output_hidden_states if hidden_states is None else hidden_states
        return Watch(hidden_states, cache.max_length if attentions else 0)

    def get_encoder(self) -> nnx.Module:
        """There is none: raises NotImplementedError."""
        raise NotImplementedError("Gemma3TextModel is a decoder and has no encoder")

    def get_decoder(self) -> Gemma3TextModel:
        """The text stack: itself."""
        return self

    def get_lm_head(self) -> nnx.Module:
        """There is none: raises NotImplementedError."""
        raise NotImplementedError("Gemma3TextModel has no language model head")

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
        cache: KVCache, context: LoweringContext, watch: Watch, rotated: Array | None = None,
        dropout: Array | None = None,
    ) -> tuple[Array, KVCache, Observed]:  # fmt: skip
        """`observe` of embedded tokens x [B,T,D]; `groups` [B,T] are their images.

        `rotated` [B,T] are positions for the rotary embedding other than on from `start`;
        `dropout` is the key of a call that drops.
        """
        steps = layer_steps(self.config, start, length, x.shape[1], cache, context, groups, rotated)
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

        given = list(zip(cache, layer_keys(dropout, len(cache)), strict=True))
        x, states = run_layers(call, self.layers, self.config, x, steps, given)
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
                context.made_once(*rope_tables(self.config, kind, positions, last), positions),
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


@functools.lru_cache(maxsize=1)
def _rotary_table(frequencies: tuple[float, ...], positions: int) -> np.ndarray:
    """[positions, 2 * frequencies] float32: the cosines of each position, then its sines."""
    each = np.asarray(frequencies, np.float32)
    angles = np.arange(positions, dtype=np.float32)[:, None] * each[None, :]
    table = np.concatenate([np.cos(angles), np.sin(angles)], axis=-1)
    table.flags.writeable = False
    return table


class Gemma3ForCausalLM(nnx.Module, LanguageModelHead):
    """The text model with its language-modelling head, tied or not."""

    def __init__(
        self, config: Gemma3TextConfig, dtype: jnp.dtype = jnp.bfloat16, param_dtype: Any = None,
        precision: Any = None, *, rngs: nnx.Rngs | None = None,
    ):  # fmt: skip
        """As Gemma3TextModel."""
        self.config, self.dtype = config, jnp.dtype(dtype)
        self.model = Gemma3TextModel(config, dtype, param_dtype, precision, rngs=rngs)
        if not config.tie_word_embeddings:
            shape = (config.vocab_size, config.hidden_size)
            self.lm_head = Linear(shape, ("vocab_out", "embed"), config, dtype, rngs)
        if rngs is not None:
            quantize_weights(self)

    @property
    def text_config(self) -> Gemma3TextConfig:
        """Its own config."""
        return self.config

    def __call__(
        self, input_ids: Array | None = None, inputs_embeds: Array | None = None,
        attention_mask: Array | None = None, position_ids: Array | None = None,
        token_type_ids: Array | None = None, past_key_values: TransformerCache | None = None,
        output_attentions: bool | None = None, output_hidden_states: bool | None = None,
        labels: Array | None = None, rngs: nnx.Rngs | None = None,
    ) -> Gemma3CausalLMOutputWithPast:  # fmt: skip
        """Read tokens; arguments as in Gemma3TextModel.

        labels [B,T] int ask for the loss: label t + 1 is what should follow token t. Left out are
        labels of -100, and where the call knows of padding, that and the first token after it.
        """
        output = self.model(
            input_ids, inputs_embeds, attention_mask, position_ids, token_type_ids,
            past_key_values, output_attentions, output_hidden_states, rngs,
        )  # fmt: skip
        return self.with_logits(output, labels, input_ids, attention_mask, past_key_values)

    def get_encoder(self) -> nnx.Module:
        """There is none: raises NotImplementedError."""
        raise NotImplementedError("Gemma3ForCausalLM is a decoder and has no encoder")

    def get_decoder(self) -> Gemma3TextModel:
        """The text stack."""
        return self.model

    def get_embedding(self) -> Gemma3TextScaledWordEmbedding:
        """The token embeddings."""
        return self.model.get_embedding()
