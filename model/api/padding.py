"""A user's batch, padded anywhere, as the chunk that the layers take: padding behind the tokens.

The layers know a row as `length` tokens from position `start` on, then padding. A batch that is
padded on the left is put into that form by moving each row's tokens to the front, in order, and
what comes out is moved back. Keys of padding are never seen and never written, so this is exact.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from ..config import Gemma3TextConfig
from ..observe import Observed
from ..steps import take_tokens
from .cache import TransformerCache, leading_padding

Array = jax.Array


class Batch(NamedTuple):
    """Where the tokens of a batch stand."""

    order: Array
    """[B,T] int32, for each place at the front the column that comes there."""
    start: Array
    """[B] int32, tokens of each row that the cache has."""
    length: Array
    """[B] int32, tokens that count."""
    positions: Array | None
    """[B,T] int32 for the rotary embedding, already in `order`; None: on from `start`."""

    def gather(self, x: Array) -> Array:
        """x [B,T,...] with each row's tokens at the front."""
        return take_tokens(x, self.order)

    def restore(self, x: Array, axis: int = 1) -> Array:
        """The inverse: x [B,...], whose `axis` has T places, back in the columns of the input."""
        back = jnp.argsort(self.order, axis=1)
        return jnp.moveaxis(take_tokens(jnp.moveaxis(x, axis, 1), back), 1, axis)

    def restore_observed(self, seen: Observed, within: bool) -> Observed:
        """What was observed in the columns of the input; keys too where they are `within` it."""
        hidden = tuple(self.restore(x) for x in seen.hidden_states)
        attentions = tuple(self.restore(x, 2) for x in seen.attentions)
        if within:
            attentions = tuple(self.restore(x, 3) for x in attentions)
        return Observed(hidden, attentions)


def read_batch(
    tokens: int, cache: TransformerCache, input_ids: Array | None, attention_mask: Array | None,
    position_ids: Array | None,
) -> Batch:  # fmt: skip
    """The batch of a call of `tokens` columns.

    attention_mask is of these columns [B,T], or of all there will ever be [B,more]. Raises
    ValueError for one that is neither.
    """
    valid = valid_tokens(tokens, cache, input_ids, attention_mask)
    order = jnp.argsort(~valid, axis=1, stable=True).astype(jnp.int32)
    length = jnp.sum(valid.astype(jnp.int32), axis=1, dtype=jnp.int32)
    positions = None
    if position_ids is not None:
        positions = take_tokens(
            jnp.broadcast_to(position_ids, valid.shape).astype(jnp.int32), order
        )
    return Batch(order, cache.positions, length, positions)


def valid_tokens(
    tokens: int, cache: TransformerCache, input_ids: Array | None, attention_mask: Array | None
) -> Array:
    """[B,T] bool: which of the `tokens` columns of a call count; see read_batch.

    Columns beyond the width of a mask of all columns count.
    """
    column = cache.columns + jnp.arange(tokens, dtype=jnp.int32)[None, :]
    batch = cache.positions.shape[0]
    if attention_mask is None:
        starts = cache.starts
        if starts is None and input_ids is None:
            return jnp.ones((batch, tokens), bool)
        if starts is None:
            assert input_ids is not None
            leading = leading_padding(input_ids, cache.pad_token_id)
            starts = jnp.where(cache.columns == 0, leading, 0)
        return column >= starts[:, None]
    if attention_mask.ndim != 2 or attention_mask.shape[1] < tokens:
        raise ValueError(
            f"attention_mask: expected [B,{tokens}] or wider, got {list(attention_mask.shape)}"
        )
    mask = attention_mask.astype(bool)
    if mask.shape[1] > tokens:
        mask = jnp.pad(mask, ((0, 0), (0, tokens)), constant_values=True)
        mask = jax.lax.dynamic_slice_in_dim(mask, cache.columns, tokens, axis=1)
    return jnp.broadcast_to(mask, (batch, tokens))


def beyond_limits(batch: Batch, cache: TransformerCache, config: Gemma3TextConfig) -> Array:
    """Rows that a call would bring beyond what the cache or the config grants: [B] bool.

    Raises ValueError where that is known: a call of more columns than the cache has positions,
    and, while nothing is traced, any row for which it is true.
    """
    columns, most = batch.order.shape[1], cache.max_length
    if columns > most:
        raise ValueError(
            f"a call of {columns} tokens does not fit a cache of max_length {most}: make it with "
            f"a larger max_length, padding of one call included"
        )
    end = batch.start + batch.length
    _require(end, most, "tokens in a cache of max_length", "make it with a larger max_length")
    beyond = end > most
    if granted := config.freq_max_position_embeddings:
        far = end
        if batch.positions is not None:
            counted = jnp.arange(columns, dtype=jnp.int32)[None, :] < batch.length[:, None]
            far = jnp.max(jnp.where(counted, batch.positions, -1), axis=1) + 1
        _require(far, granted, "positions, and freq_max_position_embeddings grants", "raise it")
        beyond |= far > granted
    return beyond


def _require(counts: Array, most: int, what: str, remedy: str) -> None:
    """Raise ValueError where a count [B] is known, and larger than `most`."""
    largest = known(jnp.max(counts))
    if largest is not None and largest > most:
        row = int(jnp.argmax(counts))
        raise ValueError(f"row {row} would have {largest} {what} {most}: {remedy}")


def known(array: Array) -> int | None:
    """A scalar as a number; None while tracing."""
    try:
        return int(array)
    except jax.errors.ConcretizationTypeError:
        return None
