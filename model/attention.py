"""Attention over an old cache and a chunk's own keys, without joining the two."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from .cache import LayerCache
from .context import LoweringContext, softcap

Array = jax.Array


class Visibility(NamedTuple):
    """Masks of one kind of layer: old [B,T,S] and new [B,T,T] or [1,T,T], both bool."""

    old: Array
    new: Array


def attend(
    query: Array, new: LayerCache, old: LayerCache, visible: Visibility, scale: float,
    cap: float | None, context: LoweringContext,
) -> Array:  # fmt: skip
    """Softmax attention in float32 over the old cache and the new tokens.

    Args:
      query: [B,T,N,H] rotated, float32 or what int8 keys are to be widened to.
      new, old: keys and values [B,K,T,H] and [B,K,S,H] as the cache keeps them.
      scale: query_pre_attn_scalar ** -0.5.
      cap: attn_logit_softcapping. Hugging Face parses it and applies nothing; where a config
        sets it, it is honoured here.

    Returns:
      [B,T,N,H] float32.
    """
    old_weights, new_weights, total = _weights(query, new, old, visible, scale, cap)
    mixed = context.in_halves(  # [B,K,G*T,H]
        query.shape[0] * query.shape[1],
        lambda a, b: (a + b) / total, "norm",
        _mix(old_weights, old.value, old.value_scale, query.dtype),
        _mix(new_weights, new.value, new.value_scale, query.dtype),
    )  # fmt: skip
    return _heads(mixed, query.shape)


def attention_weights(
    query: Array, new: LayerCache, old: LayerCache, visible: Visibility, scale: float,
    cap: float | None,
) -> tuple[Array, Array]:  # fmt: skip
    """What each query of `attend` gives to each key, for those who want to look.

    Args as in `attend`. Returns weights of the old cache [B,N,T,S] and of the new tokens
    [B,N,T,T], float32, that add up to 1 over both.
    """
    *parts, total = _weights(query, new, old, visible, scale, cap)
    B, T, N, _ = query.shape
    old_weights, new_weights = ((part / total).reshape(B, N, T, -1) for part in parts)
    return old_weights, new_weights


def attend_within(
    query: Array, new: LayerCache, visible: Array, scale: float, cap: float | None
) -> Array:
    """Softmax attention in float32 among the tokens of one call, without a cache.

    Args as in `attend`; visible is [B,T,T] bool. Returns [B,T,N,H] float32.
    """
    groups = query.shape[2] // new.key.shape[1]
    scores = _scores(_rows(query * scale, new.key.shape[1]), new.key, None, cap)
    weights = jax.nn.softmax(_masked(scores, visible[:, None, None], groups), axis=-1)
    return _heads(_mix(weights, new.value, None, query.dtype), query.shape)


def _weights(
    query: Array, new: LayerCache, old: LayerCache, visible: Visibility, scale: float,
    cap: float | None,
) -> tuple[Array, Array, Array]:  # fmt: skip
    """exp of the scores of the old [B,K,G*T,S] and new [B,K,G*T,T] keys, and their sum."""
    scaled = (query.astype(jnp.float32) * scale).astype(query.dtype)
    rows = _rows(scaled, new.key.shape[1])  # [B,K,G*T,H]
    G = query.shape[2] // new.key.shape[1]
    old_scores = _masked(_scores(rows, old.key, old.key_scale, cap), visible.old[:, None, None], G)
    new_scores = _masked(_scores(rows, new.key, new.key_scale, cap), visible.new[:, None, None], G)
    peak = jnp.maximum(old_scores.max(-1, keepdims=True), new_scores.max(-1, keepdims=True))
    old_weights, new_weights = jnp.exp(old_scores - peak), jnp.exp(new_scores - peak)
    total = old_weights.sum(-1, keepdims=True) + new_weights.sum(-1, keepdims=True)
    return old_weights, new_weights, total


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
    # A finite floor: a row that sees nothing (padding) must not become NaN.
    return jnp.where(visible, grouped, jnp.float32(-1e30)).reshape(B, K, R, S)
