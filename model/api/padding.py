"""A batch padded on either side, as the layers take it: padding after the tokens.

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


class PaddedBatch(NamedTuple):
    """Where the tokens of a batch are."""

    order: Array
    """[B,T] int32, the column of each token, those that count first."""
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
        inverse = jnp.argsort(self.order, axis=1)
        return jnp.moveaxis(take_tokens(jnp.moveaxis(x, axis, 1), inverse), 1, axis)

    def restore_observed(self, observed: Observed, own_keys: bool) -> Observed:
        """Observed values in the columns of the input.

        With `own_keys` the keys are tokens of the call, and go back too.
        """
        hidden = tuple(self.restore(x) for x in observed.hidden_states)
        attentions = tuple(self.restore(x, 2) for x in observed.attentions)
        if own_keys:
            attentions = tuple(self.restore(x, 3) for x in attentions)
        return Observed(hidden, attentions)


def align_batch(
    tokens: int, cache: TransformerCache, input_ids: Array | None, attention_mask: Array | None,
    position_ids: Array | None,
) -> PaddedBatch:  # fmt: skip
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
    return PaddedBatch(order, cache.positions, length, positions)


def valid_tokens(
    tokens: int, cache: TransformerCache, input_ids: Array | None, attention_mask: Array | None
) -> Array:
    """[B,T] bool: which of the `tokens` columns of a call count; see align_batch.

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


def rows_over_limits(
    batch: PaddedBatch, cache: TransformerCache, config: Gemma3TextConfig
) -> Array:
    """Rows that would exceed what the cache or the config allows: [B] bool.

    Raises ValueError where that is known: a call of more columns than the cache has positions,
    and, while nothing is traced, any row for which it is true.
    """
    columns, limit = batch.order.shape[1], cache.max_length
    if columns > limit:
        raise ValueError(
            f"a call of {columns} tokens does not fit a cache of max_length {limit}: make it with "
            f"a larger max_length, padding of one call included"
        )
    end = batch.start + batch.length
    _require(end, limit, "tokens in a cache of max_length", "make it with a larger max_length")
    over = end > limit
    if granted := config.freq_max_position_embeddings:
        last = end
        if batch.positions is not None:
            valid = jnp.arange(columns, dtype=jnp.int32)[None, :] < batch.length[:, None]
            last = jnp.max(jnp.where(valid, batch.positions, -1), axis=1) + 1
        _require(last, granted, "positions, and freq_max_position_embeddings grants", "raise it")
        over |= last > granted
    return over


def _require(counts: Array, limit: int, what: str, remedy: str) -> None:
    """Raise ValueError where a count [B] is known, and larger than `limit`."""
    largest = concrete(jnp.max(counts))
    if largest is not None and largest > limit:
        row = int(jnp.argmax(counts))
        raise ValueError(f"row {row} would have {largest} {what} {limit}: {remedy}")


def concrete(array: Array) -> int | None:
    """A scalar as a number; None while tracing."""
    try:
        return int(array)
    except jax.errors.ConcretizationTypeError:
        return None
