"""What all models that generate share: a cache, and the inputs of each call."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Sharding

from ..config import Gemma3TextConfig
from .cache import CacheMetadata, TransformerCache, cache_metadata, leading_padding, put

Array = jax.Array


class GenerationMixin:
    """The generation side of the API; the class has `text_config` and `dtype`.

    A loop is

        inputs = model.prepare_inputs_for_generation(ids, max_length, pad_token_id)
        output = model(ids, **inputs)
        inputs = model.update_inputs_for_generation(output, inputs)
        output = model(next_ids, **inputs)
    """

    dtype: jnp.dtype
    text_config: Gemma3TextConfig

    @staticmethod
    def compute_prefill_length(array: Array, padding_id: int) -> Array:
        """Padding tokens at the beginning of each row: array [B,T] -> [B] int32."""
        return leading_padding(array, padding_id)

    def init_cache(
        self, batch_size: int, max_length: int, starts: Array | int | None = None,
        shardings: Mapping[str, Sharding] | None = None, pad_token_id: int | None = None,
    ) -> TransformerCache:  # fmt: skip
        """A fresh cache for rows of up to `max_length` tokens, padding not counted.

        Its keys and values are of the model's dtype. For the other arguments see
        TransformerCache.init_cache; pad_token_id of None is the config's.
        """
        metadata = self.create_cache_metadata(batch_size, max_length, pad_token_id)
        return TransformerCache.init_cache(metadata, starts, shardings)

    def create_cache_metadata(
        self, batch_size: int, max_length: int, pad_token_id: int | None = None
    ) -> CacheMetadata:
        """The sizes of such a cache; raises ValueError for one below 1."""
        return cache_metadata(self.text_config, self.dtype, batch_size, max_length, pad_token_id)

    def prepare_inputs_for_generation(
        self, input_ids: Array, max_length: int, pad_token_id: int,
        starts: Array | int | None = None, shardings: Mapping[str, Sharding] | None = None,
        attention_mask: Array | None = None, token_type_ids: Array | None = None,
    ) -> dict[str, Any]:  # fmt: skip
        """Keyword arguments of the first call for input_ids [B,T].

        Args:
          max_length: tokens a row of the cache can hold.
          pad_token_id: what pads rows where neither `attention_mask` nor `starts` says it.
          starts: leading padding of each row, [B] or one for all.
          shardings: as in init_cache; attention_mask and position_ids go with `positions`.
          attention_mask: [B,T], not 0 where a token counts. Padding may stand on either side.

        Returns:
          past_key_values; attention_mask [B,max_length], true for what is still to come;
          position_ids [B,T], which count what is not padding; token_type_ids where given. All
          after it went through prepare_inputs_for_call.
        """
        batch, tokens = input_ids.shape
        if attention_mask is not None:
            valid = attention_mask.astype(bool)
            if starts is None:
                starts = leading_padding(valid.astype(jnp.int32), 0)
        elif starts is not None:
            first = jnp.broadcast_to(jnp.asarray(starts, jnp.int32), (batch,))
            valid = jnp.arange(tokens, dtype=jnp.int32)[None, :] >= first[:, None]
        else:
            valid, starts = input_ids != pad_token_id, leading_padding(input_ids, pad_token_id)
        future = jnp.ones((batch, max(0, max_length - tokens)), bool)
        inputs: dict[str, Any] = {
            "past_key_values": self.init_cache(
                batch, max_length, starts, shardings, pad_token_id
            ),
            "attention_mask": put(
                "positions", jnp.concatenate([valid, future], axis=1), shardings
            ),
            "position_ids": put("positions", positions_of(valid), shardings),
        }  # fmt: skip
        if token_type_ids is not None:
            inputs["token_type_ids"] = token_type_ids
        return self.prepare_inputs_for_call(**inputs)

    def prepare_inputs_for_call(self, **inputs: Any) -> dict[str, Any]:
        """A hook for subclasses: the arguments of a first call, here unchanged."""
        return inputs

    def update_inputs_for_generation(
        self, model_outputs: Any, model_kwargs: Mapping[str, Any]
    ) -> dict[str, Any]:
        """Keyword arguments of the next call, for one token of each row.

        The cache is that of `model_outputs`, positions go on by one, and what belongs to the
        prompt alone (images, token types, embeddings) is left out.
        """
        prompt_only = ("pixel_values", "token_type_ids", "inputs_embeds")
        inputs = {name: value for name, value in model_kwargs.items() if name not in prompt_only}
        return inputs | {
            "past_key_values": model_outputs.past_key_values,
            "position_ids": model_kwargs["position_ids"][:, -1:] + 1,
        }


def positions_of(valid: Array) -> Array:
    """Positions that count valid tokens [B,T] bool; 0 before the first. -> [B,T] int32."""
    return jnp.maximum(jnp.cumsum(valid.astype(jnp.int32), axis=1, dtype=jnp.int32) - 1, 0)
