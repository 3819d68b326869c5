"""The KV cache: rings on sliding layers, full caches on global layers, rows at own positions.

Each layer holds keys and values [B,K,S,H]. A ring of S slots keeps position p in slot p % S;
a full cache keeps it in slot p. Nothing but the position of a row says which slots are valid,
so a fresh cache is zeros and needs no initialisation beyond that.

A call attends to the OLD cache and to its own new keys separately, and writes the new ones
afterwards: a chunk longer than a ring stays exact, and XLA need not copy the cache to keep
the old contents readable.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from .config import Gemma3TextConfig, LayerType
from .lowering.forms import quantized_rows
from .lowering.target import Platform

Array = jax.Array


class LayerCache(NamedTuple):
    """Keys and values of one layer, each [B,K,S,H].

    Those of int8 are multiplied by a scale for each head of a position, [B,K,S,1] float32.
    """

    key: Array
    value: Array
    key_scale: Array | None = None
    value_scale: Array | None = None


KVCache = tuple[LayerCache, ...]

_ENDLESS = 1 << 30
"""Beyond every position."""


def cache_slots(config: Gemma3TextConfig, layer_type: LayerType, cache: int) -> int:
    """Slots a layer needs so that rows can hold `cache` positions."""
    return min(config.sliding_window, cache) if layer_type == LayerType.SLIDING else cache


def init_cache(
    config: Gemma3TextConfig, batch_size: int, max_length: int, dtype: jnp.dtype
) -> KVCache:
    """A fresh cache for rows of up to `max_length` positions: one LayerCache per layer."""
    layers = []
    for kind in config.layer_types:
        slots = cache_slots(config, kind, max_length)
        shape = (batch_size, config.num_key_value_heads, slots, config.head_dim)
        # Each its own array: one donated twice is refused.
        layer = LayerCache(jnp.zeros(shape, dtype), jnp.zeros(shape, dtype))
        if dtype == jnp.int8:
            scales = (jnp.zeros((*shape[:-1], 1), jnp.float32) for _ in range(2))
            layer = LayerCache(layer.key, layer.value, *scales)
        layers.append(layer)
    return tuple(layers)


def cached(key: Array, value: Array, dtype: jnp.dtype) -> LayerCache:
    """Keys and values [B,K,T,H] as a cache of `dtype` keeps them.

    A chunk attends to its own keys as they are kept, so that chunking changes nothing.
    """
    if dtype != jnp.int8:
        return LayerCache(key.astype(dtype), value.astype(dtype))
    (key, key_scale), (value, value_scale) = quantized_rows(key), quantized_rows(value)
    return LayerCache(key, value, key_scale, value_scale)


def reach(layer_type: LayerType, window: int) -> int:
    """How many positions a query sees, its own and those before it; a full layer's is endless."""
    return window if layer_type == LayerType.SLIDING else _ENDLESS


def slot_positions(layer_type: LayerType, slots: int, start: Array) -> Array:
    """The position that each slot of the old cache holds, [B,S] int32; negative is none.

    start: [B] int32, positions already in the cache are 0..start-1.
    """
    slot = jnp.arange(slots, dtype=jnp.int32)[None, :]  # [1,S]
    if layer_type == LayerType.FULL:
        return jnp.where(slot < start[:, None], slot, -1)
    newest = start[:, None] - 1
    return newest - jnp.mod(newest - slot, slots)


def visible_slots(slot_position: Array, positions: Array, reach: Array | int) -> Array:
    """Which slots of the old cache each query may see: [B,T,S] bool.

    Args:
      slot_position: [B,S] int32, see slot_positions.
      positions: [B,T] int32, absolute positions of the queries, all after those held.
    """
    is_near = slot_position[:, None, :] > positions[:, :, None] - reach
    return (slot_position >= 0)[:, None, :] & is_near


def visible_behind(query: Array, key: Array, reach: Array | int) -> Array:
    """Whether tokens at these places of a chunk may see those: shapes broadcast, bool.

    Padding after the valid tokens needs no mask: no valid query looks ahead.
    """
    return (key <= query) & (key > query - reach)


def visible_both_ways(layer_type: LayerType, window: int, tokens: int, length: Array) -> Array:
    """Which tokens each token of a whole text may see, ahead and behind: [B,T,T] bool.

    On sliding layers those less than W' = W // 2 + 1 away, where W is the config's
    sliding_window: transformers halves it as it reads the config, and doubles it again as it
    writes one. `length` [B] int32 counts the valid tokens; padding is seen by none.
    """
    index = jnp.arange(tokens, dtype=jnp.int32)
    valid = (index[None, :] < length[:, None])[:, None, :]  # [B,1,T]
    if layer_type == LayerType.FULL:
        return jnp.broadcast_to(valid, (length.shape[0], tokens, tokens))
    is_near = jnp.abs(index[:, None] - index[None, :]) < window // 2 + 1
    return valid & is_near[None]


def visible_causally(layer_type: LayerType, window: int, tokens: int) -> Array:
    """Which tokens each token of a whole text may see, itself and behind: [1,T,T] bool.

    Padding after the text needs no mask, see visible_behind.
    """
    index = jnp.arange(tokens, dtype=jnp.int32)
    reach = window if layer_type == LayerType.SLIDING else tokens
    return visible_behind(index[:, None], index[None, :], reach)[None]


def weights_by_position(
    layer_type: LayerType, old: Array, new: Array, start: Array, positions: int
) -> Array:
    """Attention weights in the order of their keys' positions: [B,N,T,positions].

    Args:
      old: [B,N,T,S], of the slots of the old cache.
      new: [B,N,T,T], of the chunk, whose first token is at position `start` [B].
    """
    slots, tokens = old.shape[-1], new.shape[-1]
    position = jnp.arange(positions, dtype=jnp.int32)[None, :]
    token = position - start[:, None]  # [B,P]: negative in the old cache
    slot = jnp.mod(position, slots) if layer_type == LayerType.SLIDING else position
    slot = jnp.broadcast_to(jnp.minimum(slot, slots - 1), token.shape)

    def take(weights: Array, index: Array, valid: Array) -> Array:
        values = jnp.take_along_axis(weights, index[:, None, None, :], axis=-1)
        return jnp.where(valid[:, None, None, :], values, 0.0)

    from_old = take(old, slot, (token < 0) & (token >= -slots))
    from_new = take(new, jnp.clip(token, 0, tokens - 1), (token >= 0) & (token < tokens))
    return from_old + from_new


def update_layer(
    layer_type: LayerType, cache: LayerCache, new: LayerCache, start: Array,
    length: Array | None, platform: Platform = Platform.CPU,
) -> LayerCache:  # fmt: skip
    """Write a chunk's first `length` tokens at positions start.. of each row.

    Args:
      new: keys and values [B,K,T,H] in the cache's dtype.
      start: [B] int32.
      length: [B] int32. Tokens at or after `length` are padding and are never written: padding
        never evicts a key. None says that every row has one token, as in decoding.
      platform: decides how, never what is written.
    """
    tokens = new.key.shape[2]
    return _each(_writer(layer_type, cache.key, tokens, start, length, platform), cache, new)


def update_tokens(
    kept: Array, new: Array, start: Array, length: Array | None,
    platform: Platform = Platform.CPU,
) -> Array:  # fmt: skip
    """Write a chunk's token ids [B,T] int32 at their positions of `kept` [B,S], as update_layer."""
    kept, new = (ids[:, None, :, None] for ids in (kept, new))
    write = _writer(LayerType.FULL, kept, new.shape[2], start, length, platform)
    return write(kept, new)[:, 0, :, 0]


def _writer(
    layer_type: LayerType, cache: Array, tokens: int, start: Array, length: Array | None,
    platform: Platform,
) -> Callable[[Array, Array], Array]:  # fmt: skip
    """What writes `tokens` new entries [B,K,T,H] to an array like `cache` [B,K,S,H]."""
    slots, is_ring = cache.shape[2], layer_type == LayerType.SLIDING
    if length is None:
        assert tokens == 1
        slot = jnp.mod(start, slots) if is_ring else start
        write = _write if _has_slice_update(cache, platform) else _put
        return lambda old, one: write(old, one, slot)
    if _has_slice_update(cache, platform) and not is_ring:
        return lambda old, one: _rewrite(old, one, start, length)
    source = _newest(slots, start, length) if is_ring else _own(slots, start, length)
    return lambda old, one: _select(old, one, source)


def _each(
    function: Callable[[Array, Array], Array], cache: LayerCache, new: LayerCache
) -> LayerCache:
    """`function` of each part of the cache and of what is written to it."""

    def part(old: Array | None, one: Array | None) -> Array | None:
        return None if old is None or one is None else function(old, one)

    return LayerCache(
        function(cache.key, new.key), function(cache.value, new.value),
        part(cache.key_scale, new.key_scale), part(cache.value_scale, new.value_scale),
    )  # fmt: skip


def _has_slice_update(cache: Array, platform: Platform) -> bool:
    """Whether the platform updates a slice of such a cache in place.

    XLA:CPU does not for rows at their own positions, where the update is a scatter, nor for
    16-bit floats: either way it converts the whole cache to float32 and back (one token of one
    row in [1,1,32768,256] bfloat16: 6.9 ms, selecting its bits 0.1 ms).
    """
    return platform != Platform.CPU or (cache.shape[0] == 1 and cache.dtype.itemsize != 2)


def _write(old: Array, new: Array, slot: Array) -> Array:
    """Put new [B,K,T,H] at slots slot.. of each row; in place when the cache is donated."""
    zero = jnp.zeros((), jnp.int32)
    if old.shape[0] == 1:
        return jax.lax.dynamic_update_slice(old, new, (zero, zero, slot[0], zero))
    return jax.vmap(lambda o, n, s: jax.lax.dynamic_update_slice(o, n, (zero, s, zero)))(
        old, new, slot
    )


def _put(old: Array, new: Array, slot: Array) -> Array:
    """The same for one token, by selection."""
    place = jnp.arange(old.shape[2], dtype=jnp.int32)[None, :]
    return _either((place == slot[:, None])[:, None, :, None], new, old)


def _newest(slots: int, start: Array, length: Array) -> Array:
    """For each slot of a ring the last token of the chunk that belongs in it: [B,S]."""
    slot = jnp.arange(slots, dtype=jnp.int32)[None, :]
    last = (length - 1)[:, None]
    return last - jnp.mod(start[:, None] + last - slot, slots)


def _own(slots: int, start: Array, length: Array) -> Array:
    """For each slot of a full cache its token of the chunk: [B,S], negative where it has none."""
    token = jnp.arange(slots, dtype=jnp.int32)[None, :] - start[:, None]
    return jnp.where(token < length[:, None], token, -1)


def _select(old: Array, new: Array, source: Array) -> Array:
    """Each slot takes token `source` [B,S] of the chunk, or keeps what it has when negative."""
    taken = jnp.take_along_axis(new, jnp.maximum(source, 0)[:, None, :, None], axis=2)
    return _either((source >= 0)[:, None, :, None], taken, old)


@jax.custom_jvp
def _either(chosen: Array, new: Array, old: Array) -> Array:
    """jnp.where; of 16-bit floats as integers, or XLA:CPU would go by way of float32."""
    if old.dtype.itemsize != 2:
        return jnp.where(chosen, new, old)
    bits = (jax.lax.bitcast_convert_type(x, jnp.uint16) for x in (new, old))
    return jax.lax.bitcast_convert_type(jnp.where(chosen, *bits), old.dtype)


@_either.defjvp
def _either_jvp(primals: tuple, tangents: tuple) -> tuple[Array, Array]:
    chosen, new, old = primals
    return _either(chosen, new, old), jnp.where(chosen, *tangents[1:])


def _rewrite(old: Array, new: Array, start: Array, length: Array) -> Array:
    """Rewrite the T slots that the chunk falls into, keeping what padding would overwrite.

    The window is moved left where it would run over the end of the cache: a slice update
    that does not fit is otherwise clamped by XLA and corrupts earlier keys.
    """
    tokens, slots = new.shape[2], old.shape[2]
    first = jnp.minimum(start, slots - tokens)  # [B]
    source = first[:, None] + jnp.arange(tokens, dtype=jnp.int32)[None, :] - start[:, None]
    source = jnp.where(source < length[:, None], source, -1)
    kept = jax.vmap(lambda o, f: jax.lax.dynamic_slice_in_dim(o, f, tokens, axis=1))(old, first)
    return _write(old, _select(kept, new, source), first)
