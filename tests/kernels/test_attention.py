"""The attention kernel against the textbook: norms, rotation, softmax, and the cache it writes."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from gemma3_export.model.attention import HeadNorms, attention_kernel
from gemma3_export.model.cache import LayerCache, reach
from gemma3_export.model.config import LayerType
from gemma3_export.model.lowering.forms import ATTENTION_KERNEL, KERNEL_TARGETS

HEAD, EPSILON, SCALE = 64, 1e-6, 0.125
TARGET = KERNEL_TARGETS[ATTENTION_KERNEL]
Register = Callable[[str], None]


class Call(NamedTuple):
    """A chunk of `lengths` tokens on rows that have `starts` in their caches."""

    tokens: int
    heads: int
    kv_heads: int
    slots: int
    window: int
    starts: Sequence[int]
    lengths: Sequence[int]
    images: Sequence[int] = ()
    """Where images begin and end, in every row."""


CALLS = [
    Call(1, 4, 1, 600, 600, (0, 599), (1, 1)),
    Call(1, 4, 2, 300, 300, (37, 260), (1, 1)),
    Call(1, 10, 1, 40, 100, (7, 39), (1, 0)),
    Call(40, 4, 1, 48, 48, (5, 8), (40, 17)),
    Call(100, 4, 1, 400, 30, (95,), (100,)),  # sees little of itself
    Call(33, 2, 2, 300, 300, (0, 100, 3), (33, 0, 1)),
    Call(70, 3, 1, 90, 30, (0, 20), (70, 66), images=(2, 35, 40, 60)),
    Call(129, 8, 2, 512, 512, (383,), (129,), images=(0, 129)),
]
ON_A_RING = [
    Call(1, 4, 1, 48, 48, (1000,), (1,)),
    Call(40, 4, 1, 48, 48, (1260,), (37,)),
    Call(100, 2, 1, 48, 48, (95,), (97,)),  # longer than the ring
]


class Arrays(NamedTuple):
    projected: tuple[jax.Array, ...]
    norms: HeadNorms
    rope: tuple[jax.Array, jax.Array]
    start: jax.Array
    length: jax.Array
    groups: jax.Array | None
    cache: LayerCache


def kept_as(numbers: np.ndarray, dtype: Any) -> tuple[np.ndarray, np.ndarray | None]:
    """Numbers [...,H] as a cache keeps them, and the scale [...,1] of int8."""
    if dtype == jnp.bfloat16:
        return numbers.astype(jnp.bfloat16), None
    scale = np.abs(numbers).max(-1, keepdims=True) / np.float32(127)
    return np.rint(numbers / scale).astype(np.int8), scale


def cache_of(key: np.ndarray, value: np.ndarray, dtype: Any) -> LayerCache:
    (key, key_scale), (value, value_scale) = kept_as(key, dtype), kept_as(value, dtype)
    parts = (key, value, key_scale, value_scale)
    return LayerCache(*(None if part is None else jnp.asarray(part) for part in parts))


def arrays(call: Call, dtype: Any) -> Arrays:
    random = np.random.default_rng(call.tokens)

    def normal(*shape: int) -> np.ndarray:
        return random.normal(size=shape).astype(np.float32)

    rows = len(call.starts)
    widths = (call.heads, call.kv_heads, call.kv_heads)
    angles = normal(rows, call.tokens, HEAD // 2)
    held = (rows, call.kv_heads, call.slots, HEAD)
    groups = None
    if call.images:
        groups = np.full((rows, call.tokens), -1, np.int32)
        for image, first in enumerate(call.images[::2]):
            groups[:, first : call.images[2 * image + 1]] = image
    return Arrays(
        tuple(jnp.asarray(normal(rows, call.tokens, width * HEAD)) for width in widths),
        HeadNorms(
            jnp.asarray(normal(HEAD) * 0.1), jnp.asarray(normal(HEAD) * 0.1, jnp.bfloat16), EPSILON
        ),
        (jnp.asarray(np.cos(angles)), jnp.asarray(np.sin(angles))),
        jnp.asarray(call.starts, jnp.int32),
        jnp.asarray(call.lengths, jnp.int32),
        None if groups is None else jnp.asarray(groups),
        cache_of(normal(*held), normal(*held), dtype),
    )


def by_kernel(
    call: Call, given: Arrays, kind: LayerType, cap: float | None
) -> tuple[jax.Array, LayerCache]:
    return attention_kernel(*given, kind, reach(kind, call.window), SCALE, cap)


def widened(part: jax.Array, scale: jax.Array | None) -> np.ndarray:
    values = np.asarray(part, np.float32)
    return values if scale is None else values * np.asarray(scale)


def turned(x: np.ndarray, weight: jax.Array, rope: tuple[jax.Array, ...]) -> np.ndarray:
    """The RMSNorm of heads [B,T,heads,H], rotated."""
    x = x / np.sqrt((x**2).mean(-1, keepdims=True) + EPSILON) * (1 + np.asarray(weight, np.float32))
    first, second = np.split(x, 2, axis=-1)
    cos, sin = (np.asarray(table)[:, :, None] for table in rope)
    return np.concatenate([first * cos - second * sin, second * cos + first * sin], -1)


def by_the_book(
    call: Call, given: Arrays, kind: LayerType, cap: float | None
) -> tuple[np.ndarray, LayerCache]:
    """All in float32, token by token; the cache as numpy arrays."""
    dtype = given.cache.key.dtype
    query, key, value = (np.asarray(y).reshape(*y.shape[:2], -1, HEAD) for y in given.projected)
    query = turned(query, given.norms.query, given.rope)
    key = turned(key, given.norms.key, given.rope)
    own = cache_of(key.transpose(0, 2, 1, 3), value.transpose(0, 2, 1, 3), dtype)
    parts = [None if part is None else np.array(part) for part in given.cache]
    old = (
        widened(given.cache.key, given.cache.key_scale),
        widened(given.cache.value, given.cache.value_scale),
    )
    new = widened(own.key, own.key_scale), widened(own.value, own.value_scale)
    result = np.zeros_like(query)
    sees, ring = reach(kind, call.window), kind == LayerType.SLIDING
    for row, (start, length) in enumerate(zip(call.starts, call.lengths, strict=True)):
        held = range(max(0, start - call.slots), start)
        for token in range(length):
            slots = [p % call.slots for p in held if p > start + token - sees]
            tokens = [t for t in range(token + 1) if t > token - sees]
            if given.groups is not None and given.groups[row, token] >= 0:
                same = np.flatnonzero(given.groups[row] == given.groups[row, token])
                tokens += [int(t) for t in same if t > token]
            for head in range(call.heads):
                k = head * call.kv_heads // call.heads
                keys, values = (
                    np.concatenate([a[row, k, slots], b[row, k, tokens]])
                    for a, b in zip(old, new, strict=True)
                )
                scores = keys @ query[row, token, head] * SCALE
                scores = scores if cap is None else cap * np.tanh(scores / cap)
                weights = np.exp(scores - scores.max())
                result[row, token, head] = weights / weights.sum() @ values
        for token in range(length):
            slot = (start + token) % call.slots if ring else start + token
            for part, made in zip(parts, own, strict=True):
                if part is not None and made is not None:
                    part[row, :, slot] = np.asarray(made)[row, :, token]
    return result.reshape(*result.shape[:2], -1), LayerCache(*parts)


@pytest.mark.parametrize(
    ("dtype", "cap"), [(jnp.bfloat16, None), (jnp.int8, 5.0)], ids=["bfloat16", "int8, capped"]
)
@pytest.mark.parametrize(
    ("kind", "call"),
    [(kind, call) for kind in LayerType for call in CALLS]
    + [(LayerType.SLIDING, call) for call in ON_A_RING],
    ids=str,
)
def test_the_attention_kernel_is_attention(
    call: Call, kind: LayerType, dtype: Any, cap: float | None, registered: Register
):
    registered(TARGET)
    given = arrays(call, dtype)
    expected, updated = by_the_book(call, given, kind, cap)
    got, cache = by_kernel(call, given, kind, cap)
    got, valid = np.asarray(got), np.arange(call.tokens)[None, :] < np.array(call.lengths)[:, None]
    # Queries and weights of many tokens are rounded to bfloat16.
    assert np.abs(got - expected)[valid].max() < (2e-5 if call.tokens == 1 else 1e-2)
    assert not got[~valid].any()
    for written, part in zip(cache, updated, strict=True):
        assert (written is None) == (part is None)
        if written is not None:
            # A number between two that the cache can keep may become either.
            wide, exact = np.asarray(written, np.float32), np.asarray(part, np.float32)
            assert np.abs(wide - exact).max() <= (1 if written.dtype == jnp.int8 else 1 / 32)
            assert np.isclose(wide, exact, rtol=1e-6).mean() > 0.999


@pytest.mark.parametrize("tokens", [1, 40])
def test_a_cache_that_is_given_away_is_written_where_it_lies(tokens: int, registered: Register):
    registered(TARGET)
    call = Call(tokens, 4, 1, 64, 64, (3,), (tokens,))
    given = arrays(call, jnp.bfloat16)

    def step(cache: LayerCache) -> tuple[jax.Array, LayerCache]:
        return by_kernel(call, given._replace(cache=cache), LayerType.FULL, None)

    program = jax.jit(step, donate_argnums=0).lower(given.cache).compile()
    assert re.findall(r"= bf16\[1,1,64,64\]\S* (copy|fusion)\(", program.as_text()) == []
    where = [part.unsafe_buffer_pointer() for part in given.cache[:2]]
    _, cache = program(given.cache)
    assert [part.unsafe_buffer_pointer() for part in cache[:2]] == where


def test_the_attention_kernel_refuses_arrays_that_do_not_belong_together(registered: Register):
    registered(TARGET)
    given = arrays(CALLS[0], jnp.bfloat16)
    wrong = given._replace(rope=(given.rope[0][..., 1:], given.rope[1]))
    with pytest.raises(jax.errors.JaxRuntimeError, match="arrays do not belong together"):
        jax.block_until_ready(by_kernel(CALLS[0], wrong, LayerType.FULL, None))
