"""Attention over an old cache and a chunk's own keys, without joining the two."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from .cache import LayerCache, reach, slot_positions, visible_behind, visible_slots
from .config import LayerType
from .dropout import Dropout, drop
from .image_mask import visible_ahead
from .lowering.context import LoweringContext, softcap
from .lowering.forms import ATTENTION_KERNEL, KERNEL_LANES, KERNEL_TARGETS
from .lowering.table import AttentionCase, Blocks, blocks_name

Array = jax.Array

# A row that sees nothing (padding) must not become NaN.
_FLOOR = -1e30


class Visibility(NamedTuple):
    """Which tokens see which on one kind of layer, for masks as a whole or in blocks."""

    position: Array
    """[B,T] int32, absolute positions of the chunk's tokens."""
    slot_position: Array
    """[B,S] int32, the position each slot of the old cache holds, negative for none."""
    reach: Array
    """[] int32, how many positions a token sees, its own and those before it."""
    groups: Array | None
    """[B,T] int32, the images of the chunk, see image_groups; None where it has none."""

    @classmethod
    def of(
        cls, layer_type: LayerType, slots: int, window: int, start: Array, tokens: int,
        groups: Array | None,
    ) -> Visibility:  # fmt: skip
        """For a chunk of `tokens` tokens that starts at `start` [B]."""
        position = start[:, None] + jnp.arange(tokens, dtype=jnp.int32)[None, :]
        slot_position = slot_positions(layer_type, slots, start)
        return cls(position, slot_position, jnp.int32(reach(layer_type, window)), groups)

    @property
    def old(self) -> Array:
        """Which slots of the old cache each token sees: [B,T,S] bool."""
        return visible_slots(self.slot_position, self.position, self.reach)

    @property
    def new(self) -> Array:
        """Which tokens of the chunk each token of it sees: [B,T,T] or [1,T,T] bool."""
        index = jnp.arange(self.position.shape[1], dtype=jnp.int32)
        return self.among(index, index)

    def among(self, query: Array, key: Array) -> Array:
        """Which tokens at places `key` [k] of the chunk those at `query` [q] see: [B or 1,q,k]."""
        behind = visible_behind(query[:, None], key[None, :], self.reach)[None]
        if self.groups is None:
            return behind
        return behind | visible_ahead(self.groups[:, query], self.groups[:, key], query, key)


def _may_block(context: LoweringContext, tokens: int, slots: int) -> bool:
    """Whether attention may loop over blocks: not over a dimension that the mesh splits."""
    sharder = context.sharder
    split = sharder is not None and (
        sharder.shards("tokens", tokens) > 1 or sharder.shards("slots", slots) > 1
    )
    return not split and not context.differentiable


def _blocks(
    context: LoweringContext, kind: LayerType, query: Array, old: LayerCache
) -> Blocks | None:
    """The blocks to attend in, None for all scores at once; recorded in the context."""
    (B, T, N, H), (_, K, S, _) = query.shape, old.key.shape
    blocks = None
    if _may_block(context, T, S):
        cache_dtype = old.key.dtype
        dtype = query.dtype if old.key_scale is not None else cache_dtype
        case = AttentionCase(context.platform, kind, str(dtype), str(cache_dtype), B, T, N, K, H, S)
        context.recorder.cases.add(case)
        blocks = context.table.blocks(case)
    context.recorder.forms[str(kind)] = blocks_name(blocks)
    return blocks


def attend(
    query: Array, new: LayerCache, old: LayerCache, visible: Visibility, scale: float,
    cap: float | None, context: LoweringContext, kind: LayerType, dropout: Dropout | None = None,
) -> Array:  # fmt: skip
    """Softmax attention in float32 over the old cache and the new tokens, in the best form.

    Args:
      query: [B,T,N,H] rotated, float32 or what int8 keys are to be widened to.
      new, old: keys and values [B,K,T,H] and [B,K,S,H] as the cache keeps them.
      scale: query_pre_attn_scalar ** -0.5.
      cap: attn_logit_softcapping. Hugging Face parses it and applies nothing; where a config
        sets it, it is honoured here.
      kind: of the layer; the choice of form is recorded under its name.
      dropout: of the probabilities, in a differentiable context.

    Returns:
      [B,T,N,H] float32.
    """
    blocks = _blocks(context, kind, query, old)
    if blocks is None:
        return whole_attention(query, new, old, visible, scale, cap, context, dropout)
    assert dropout is None
    return blocked_attention(query, new, old, visible, scale, cap, context, blocks)


def whole_attention(
    query: Array, new: LayerCache, old: LayerCache, visible: Visibility, scale: float,
    cap: float | None, context: LoweringContext, dropout: Dropout | None = None,
) -> Array:  # fmt: skip
    """All scores at once, old and new. Args and result as in `attend`."""
    old_weights, new_weights, total = _weights(query, new, old, visible, scale, cap)
    old_weights, new_weights = drop(old_weights, dropout, 0), drop(new_weights, dropout, 1)
    mixed = context.in_halves(  # [B,K,G*T,H]
        query.shape[0] * query.shape[1],
        lambda a, b: (a + b) / total, "norm",
        _mix(old_weights, old.value, old.value_scale, query.dtype),
        _mix(new_weights, new.value, new.value_scale, query.dtype),
    )  # fmt: skip
    return _heads(mixed, query.shape)


def blocked_attention(
    query: Array, new: LayerCache, old: LayerCache, visible: Visibility, scale: float,
    cap: float | None, context: LoweringContext, blocks: Blocks,
) -> Array:  # fmt: skip
    """Block by block with a running softmax: scores of T x (S+T) never exist at once.

    Only blocks that hold something a query may see are read: of the old cache those up to
    the longest row, of the chunk none ahead and, on sliding layers, none beyond the window.
    Args and result as in `attend`.
    """
    (B, T, N, H), K = query.shape, new.key.shape[1]
    rows = _scaled_rows(query, scale, K).reshape(B, K, N // K, T, H)
    if new.key_scale is None:
        rows = rows.astype(new.key.dtype)
    size = min(blocks.queries, T)
    if size == T:
        running = _one_block(jnp.int32(0), rows, new, old, visible, cap, blocks.keys)
        total = running.total
        mixed = context.in_halves(B * T, lambda mixed: mixed / total, "norm", running.mixed)
        return _heads(mixed, query.shape)

    def body(index: Array, mixed: Array) -> Array:
        first = jnp.minimum(index * size, T - size)
        part = jax.lax.dynamic_slice_in_dim(rows, first, size, axis=3)
        running = _one_block(first, part, new, old, visible, cap, blocks.keys)
        part_mixed = (running.mixed / running.total).reshape(B, K, N // K, size, H)
        return jax.lax.dynamic_update_slice_in_dim(mixed, part_mixed, first, axis=3)

    mixed = jnp.zeros(rows.shape, jnp.float32)
    mixed = jax.lax.fori_loop(jnp.int32(0), jnp.int32(-(-T // size)), body, mixed)
    return _heads(mixed.reshape(B, K, -1, H), query.shape)


def kernel_attends(cache: LayerCache, context: LoweringContext) -> bool:
    """Whether `attention_kernel` may be called on such a cache."""
    size, dtype = cache.key.shape[-1], cache.key.dtype
    return context.kernels and size % KERNEL_LANES == 0 and dtype != jnp.float32


class HeadNorms(NamedTuple):
    """The RMSNorm of queries and of keys: weights [H] float32 or bfloat16, and its epsilon."""

    query: Array
    key: Array
    epsilon: float


def attention_kernel(
    projections: Sequence[Array], norms: HeadNorms, rope: tuple[Array, Array], start: Array,
    length: Array | None, groups: Array | None, cache: LayerCache, kind: LayerType, reach: int,
    scale: float, cap: float | None,
) -> tuple[Array, LayerCache]:  # fmt: skip
    """All between a layer's projections, by a C++ kernel of the host that reads only what is seen.

    The cache is written in place. Queries and keys are normed and rotated, and of many tokens
    queries are rounded to bfloat16; of one they stay float32.

    Args:
      projections: queries, keys and values [B,T,heads*H] float32.
      rope: cosines and sines [B,T,H/2].
      start, length: [B] int32, see LayerStep.
      groups: [B,T] int32, images of the chunk, see image_groups; None where it has none.
      cache: bfloat16 or int8, H a multiple of 32.
      reach: how many positions a token sees, its own and those before it.
      scale, cap: as in `attend`.

    Returns:
      [B,T,N*H] float32, 0 for padding, and the cache with the chunk written.
    """
    if length is None:
        length = jnp.ones_like(start)
    # Scales as the programs keep them, [B,K,S]: a dimension more would have them copied.
    scales = [part[..., 0] for part in (cache.key_scale, cache.value_scale) if part is not None]
    cache_parts = [cache.key, cache.value, *scales]
    arrays = [*projections, norms.query, norms.key, *rope, start, length, *cache_parts]
    first = len(arrays) - len(cache_parts)
    query = projections[0]
    results = [jax.ShapeDtypeStruct(query.shape, query.dtype)]
    results += [jax.ShapeDtypeStruct(part.shape, part.dtype) for part in cache_parts]
    call = jax.ffi.ffi_call(
        KERNEL_TARGETS[ATTENTION_KERNEL], results,
        input_output_aliases={first + i: 1 + i for i in range(len(cache_parts))},
    )  # fmt: skip
    mixed, *new_parts = call(
        *arrays, *([] if groups is None else [groups]), epsilon=np.float32(norms.epsilon),
        scale=np.float32(scale), cap=np.float32(cap or 0.0), reach=np.int32(reach),
        ring=kind == LayerType.SLIDING, grouped=groups is not None,
    )  # fmt: skip
    return mixed, LayerCache(*new_parts[:2], *(scale[..., None] for scale in new_parts[2:]))


class _Running(NamedTuple):
    """A softmax over the keys so far, [B,K,R,1], [B,K,R,1] and [B,K,R,H] float32."""

    peak: Array
    total: Array
    mixed: Array

    def add(self, rows: Array, keys: LayerCache, mask: Array, cap: float | None) -> _Running:
        """With these keys too, of which the queries [B,K,R,H] see [B,q,k]."""
        groups = rows.shape[2] // mask.shape[1]
        scores = _scores(rows, keys.key, keys.key_scale, cap)
        scores = _masked(scores, mask[:, None, None], groups)
        peak = jnp.maximum(self.peak, scores.max(-1, keepdims=True))
        weights, decay = jnp.exp(scores - peak), jnp.exp(self.peak - peak)
        return _Running(
            peak,
            self.total * decay + weights.sum(-1, keepdims=True),
            self.mixed * decay + _mix(weights, keys.value, keys.value_scale, rows.dtype),
        )


def _one_block(
    first: Array, rows: Array, new: LayerCache, old: LayerCache, visible: Visibility,
    cap: float | None, keys: int,
) -> _Running:  # fmt: skip
    """The chunk's queries [B,K,G,q,H] at places first.. against all keys they see."""
    B, K, G, size, H = rows.shape
    T, S = new.key.shape[2], old.key.shape[2]
    rows = rows.reshape(B, K, G * size, H)
    query_index = first + jnp.arange(size, dtype=jnp.int32)
    position = jax.lax.dynamic_slice_in_dim(visible.position, first, size, axis=1)
    shape = (B, K, G * size, 1)
    running = _Running(
        jnp.full(shape, _FLOOR, jnp.float32), jnp.zeros(shape), jnp.zeros((*shape[:3], H))
    )

    def add_new(index: Array, running: _Running) -> _Running:
        width = min(keys, T)
        source, index, running = jax.lax.optimization_barrier((new, index, running))
        key = jnp.minimum(index * width, T - width) + jnp.arange(width, dtype=jnp.int32)
        mask = visible.among(query_index, key) & (key >= index * width)
        return running.add(rows, _part(source, key[0], width), mask, cap)

    def add_old(index: Array, running: _Running) -> _Running:
        width = min(keys, S)
        # Tied to the loop's state, or XLA:CPU converts the whole cache ahead of the loop.
        source, index, running = jax.lax.optimization_barrier((old, index, running))
        slot = jnp.minimum(index * width, S - width) + jnp.arange(width, dtype=jnp.int32)
        positions = jax.lax.dynamic_slice_in_dim(visible.slot_position, slot[0], width, axis=1)
        mask = visible_slots(positions, position, visible.reach) & (slot >= index * width)
        return running.add(rows, _part(source, slot[0], width), mask, cap)

    running = jax.lax.fori_loop(jnp.int32(0), _old_blocks(visible, first, keys), add_old, running)
    if T == 1:
        return add_new(jnp.int32(0), running)
    width = min(keys, T)
    begin = jnp.maximum(first - visible.reach + 1, 0) // width
    end = (first + size - 1) // width + 1 if visible.groups is None else -(-T // width)
    return jax.lax.fori_loop(begin, jnp.int32(end), add_new, running)


def _old_blocks(visible: Visibility, first: Array, keys: int) -> Array:
    """How many blocks of the old cache queries from place `first` on have to read: []."""
    S = visible.slot_position.shape[1]
    used = jnp.minimum(jnp.max(visible.position[:, 0]), S)
    blocks = (used + min(keys, S) - 1) // min(keys, S)
    return jnp.where(first < visible.reach, blocks, 0)


def _part(layer: LayerCache, first: Array, size: int) -> LayerCache:
    """`size` slots of a layer's cache from `first` on."""
    return jax.tree.map(
        lambda array: jax.lax.dynamic_slice_in_dim(array, first, size, axis=2), layer
    )


def attention_weights(
    query: Array, new: LayerCache, old: LayerCache, visible: Visibility, scale: float,
    cap: float | None,
) -> tuple[Array, Array]:  # fmt: skip
    """The attention weights of each query of `attend`, for outputs.

    Args as in `attend`. Returns weights of the old cache [B,N,T,S] and of the new tokens
    [B,N,T,T], float32, that add up to 1 over both.
    """
    *parts, total = _weights(query, new, old, visible, scale, cap)
    B, T, N, _ = query.shape
    old_weights, new_weights = ((part / total).reshape(B, N, T, -1) for part in parts)
    return old_weights, new_weights


def attend_within(
    query: Array, new: LayerCache, visible: Array, scale: float, cap: float | None,
    dropout: Dropout | None = None,
) -> Array:  # fmt: skip
    """Softmax attention in float32 among the tokens of one call, without a cache.

    Args as in `attend`; visible is [B,T,T] bool. Returns [B,T,N,H] float32.
    """
    weights = drop(weights_within(query, new, visible, scale, cap), dropout)
    return _heads(_mix(weights, new.value, None, query.dtype), query.shape)


def weights_within(
    query: Array, new: LayerCache, visible: Array, scale: float, cap: float | None
) -> Array:
    """What each query of `attend_within` gives to each token, before dropout: [B,K,G*T,T]."""
    groups = query.shape[2] // new.key.shape[1]
    scores = _scores(_rows(query * scale, new.key.shape[1]), new.key, None, cap)
    return jax.nn.softmax(_masked(scores, visible[:, None, None], groups), axis=-1)


def _weights(
    query: Array, new: LayerCache, old: LayerCache, visible: Visibility, scale: float,
    cap: float | None,
) -> tuple[Array, Array, Array]:  # fmt: skip
    """exp of the scores of the old [B,K,G*T,S] and new [B,K,G*T,T] keys, and their sum."""
    rows = _scaled_rows(query, scale, new.key.shape[1])  # [B,K,G*T,H]
    G = query.shape[2] // new.key.shape[1]
    old_scores = _masked(_scores(rows, old.key, old.key_scale, cap), visible.old[:, None, None], G)
    new_scores = _masked(_scores(rows, new.key, new.key_scale, cap), visible.new[:, None, None], G)
    peak = jnp.maximum(old_scores.max(-1, keepdims=True), new_scores.max(-1, keepdims=True))
    old_weights, new_weights = jnp.exp(old_scores - peak), jnp.exp(new_scores - peak)
    total = old_weights.sum(-1, keepdims=True) + new_weights.sum(-1, keepdims=True)
    return old_weights, new_weights, total


def _scaled_rows(query: Array, scale: float, kv_heads: int) -> Array:
    """`_rows` of the query times `scale`, in its dtype."""
    return _rows((query.astype(jnp.float32) * scale).astype(query.dtype), kv_heads)


def _rows(query: Array, kv_heads: int) -> Array:
    """Query heads of one KV head become rows of one product: [B,T,N,H] -> [B,K,G*T,H]."""
    B, T, N, H = query.shape
    K, G = kv_heads, N // kv_heads
    return query.reshape(B, T, K, G, H).transpose(0, 2, 3, 1, 4).reshape(B, K, G * T, H)


def _heads(rows: Array, shape: tuple[int, ...]) -> Array:
    """The inverse of `_rows`, for a query of `shape`."""
    (B, T, N, H), K = shape, rows.shape[1]
    return rows.reshape(B, K, N // K, T, H).transpose(0, 3, 1, 2, 4).reshape(shape)


def _scores(rows: Array, key: Array, key_scale: Array | None, cap: float | None) -> Array:
    """[B,K,R,H] x [B,K,S,H], with scales [B,K,S,1] or none -> [B,K,R,S] float32."""
    if key_scale is None:
        rows = rows.astype(key.dtype)
    else:
        key = key.astype(rows.dtype)
    scores = jnp.einsum("bkrh,bksh->bkrs", rows, key, preferred_element_type=jnp.float32)
    if key_scale is not None:
        scores = scores * key_scale.swapaxes(2, 3)
    return softcap(scores, cap)


def _mix(weights: Array, value: Array, value_scale: Array | None, dtype: jnp.dtype) -> Array:
    """[B,K,R,S] x [B,K,S,H], with scales [B,K,S,1] or none -> [B,K,R,H] float32.

    `dtype` is what int8 values are widened to.
    """
    if value_scale is not None:
        weights, value = weights * value_scale.swapaxes(2, 3), value.astype(dtype)
    return jnp.einsum(
        "bkrs,bksh->bkrh", weights.astype(value.dtype), value, preferred_element_type=jnp.float32
    )


def _masked(scores: Array, visible: Array, groups: int) -> Array:
    """Minus infinity where not visible; scores [B,K,G*T,S], visible [B,1,1,T,S]."""
    B, K, R, S = scores.shape
    grouped = scores.reshape(B, K, groups, R // groups, S)
    return jnp.where(visible, grouped, jnp.float32(_FLOOR)).reshape(B, K, R, S)
