"""Gemma3TextModel: the text stack as people call it."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from ..config import Gemma3TextConfig
from ..decoder import TextDecoder
from ..dropout import dropout_key
from ..image_mask import image_groups
from ..lowering.context import local_context
from ..observe import Watch
from ..rope import local_frequencies
from .arguments import require_one_dtype
from .cache import TransformerCache
from .generation import GenerationMixin
from .loading import quantize_weights, require_bits
from .outputs import Gemma3ModelOutputWithPast
from .padding import align_batch, rows_over_limits

Array = jax.Array


class Gemma3TextModel(TextDecoder, GenerationMixin):
    """The text stack without a head."""

    def __init__(
        self, config: Gemma3TextConfig, dtype: jnp.dtype = jnp.bfloat16, param_dtype: Any = None,
        precision: Any = None, *, rngs: nnx.Rngs | None = None,
    ):  # fmt: skip
        """Random weights with `rngs`, in config.bits; without, abstract ones: see load_weights.

        Drops nothing until `train()` is called; see dropout.py. Raises TypeError for a param_dtype
        that is not dtype, and for a precision: there is one dtype.
        """
        require_one_dtype(dtype, param_dtype, precision)
        super().__init__(config, dtype, rngs)
        self.text_config, self.dtype = config, jnp.dtype(dtype)
        self.deterministic = True
        if rngs is not None:
            quantize_weights(self)

    @property
    def default_frequencies(self) -> np.ndarray:
        """The rotary table of sliding layers, [granted_freq_max_position_embedding, head_dim].

        For each position the cosines of its angles, then the sines, float32, read-only.
        Layers do not use it: they compute what they need. It is cached until another is asked for.
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
          rngs: random streams; training with attention_dropout needs the stream `dropout`.

        Raises ValueError for both or neither of input_ids and inputs_embeds, for a call longer
        than config.granted_mask_max_position_embedding, for a mask of another shape, and for more
        tokens than the cache or config.freq_max_position_embeddings has positions for. While
        tracing, how many tokens a row has is not known: a row that has too many gets NaN for its
        last_hidden_state and logits, and the cache counts more positions than max_length.
        """
        if (input_ids is None) == (inputs_embeds is None):
            raise ValueError("pass input_ids or inputs_embeds, and not both")
        if self.config.use_bidirectional_attention:
            others = (position_ids, token_type_ids, past_key_values)
            if any(one is not None for one in others) or output_attentions or output_hidden_states:
                raise ValueError("a bidirectional model takes input_ids and attention_mask alone")
            return self._read_both_ways(input_ids, attention_mask, rngs)
        if inputs_embeds is None:
            assert input_ids is not None
            inputs_embeds = self.embed(input_ids)
        return self.read_embedded(
            inputs_embeds, input_ids, attention_mask, position_ids, token_type_ids,
            past_key_values, output_attentions, output_hidden_states, rngs,
        )  # fmt: skip

    def read_embedded(
        self, embedded: Array, input_ids: Array | None, attention_mask: Array | None,
        position_ids: Array | None, token_type_ids: Array | None,
        past_key_values: TransformerCache | None, output_attentions: bool | None,
        output_hidden_states: bool | None, rngs: nnx.Rngs | None,
    ) -> Gemma3ModelOutputWithPast:  # fmt: skip
        """A call with its tokens embedded [B,T,D]; input_ids only say what is padding."""
        rows, tokens = embedded.shape[:2]
        self._require_runnable(tokens)
        cache = past_key_values or self.init_cache(rows, tokens, starts=0)
        batch = align_batch(tokens, cache, input_ids, attention_mask, position_ids)
        over = rows_over_limits(batch, cache, self.config)
        groups = None
        if token_type_ids is not None:
            groups = batch.gather(image_groups(token_type_ids == 1))
        watch = self._watch(output_attentions, output_hidden_states, cache)
        hidden, layers, observed = self.extend_embedded(
            batch.gather(embedded.astype(jnp.float32)), groups, batch.start, batch.length,
            cache.layers, local_context(), watch, batch.positions,
            dropout_key(self.config, self.deterministic, rngs),
        )  # fmt: skip
        hidden = jnp.where(over[:, None, None], jnp.nan, hidden)
        past = dataclasses.replace(
            cache, layers=layers, positions=batch.start + batch.length,
            columns=cache.columns + tokens,
        )  # fmt: skip
        observed = batch.restore_observed(observed, own_keys=past_key_values is None)
        return Gemma3ModelOutputWithPast(
            last_hidden_state=batch.restore(hidden),
            past_key_values=past if past_key_values or self.config.use_cache else None,
            hidden_states=observed.hidden_states if watch.hidden_states else None,
            attentions=observed.attentions if watch.key_positions else None,
        )

    def _require_runnable(self, tokens: int) -> None:
        """ValueError for too many tokens, and for weights in other bits than the config's."""
        limit = self.config.granted_mask_max_position_embedding
        if tokens > limit:
            raise ValueError(f"a call of {tokens} tokens: the config grants at most {limit}")
        require_bits(self.config, self.layers[0].mlp.down_proj.weight.get_value())

    def _read_both_ways(
        self, input_ids: Array | None, attention_mask: Array | None, rngs: nnx.Rngs | None
    ) -> Gemma3ModelOutputWithPast:
        """A call of a model with use_bidirectional_attention, which keeps no cache."""
        if input_ids is None:
            raise ValueError("a bidirectional model takes input_ids, not inputs_embeds")
        self._require_runnable(input_ids.shape[1])
        empty = self.init_cache(*input_ids.shape, starts=0)
        batch = align_batch(input_ids.shape[1], empty, input_ids, attention_mask, None)
        dropout = dropout_key(self.config, self.deterministic, rngs)
        hidden = self.encode(batch.gather(input_ids), batch.length, local_context(), dropout)
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


@functools.lru_cache(maxsize=1)
def _rotary_table(frequencies: tuple[float, ...], positions: int) -> np.ndarray:
    """[positions, 2 * frequencies] float32: the cosines of each position, then its sines."""
    each = np.asarray(frequencies, np.float32)
    angles = np.arange(positions, dtype=np.float32)[:, None] * each[None, :]
    table = np.concatenate([np.cos(angles), np.sin(angles)], axis=-1)
    table.flags.writeable = False
    return table
