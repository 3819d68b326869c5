"""Rings and full caches against a notebook that forgets nothing: who sees which position."""

from __future__ import annotations

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from gemma3_export.model.attention import Visibility
from gemma3_export.model.cache import (
    LayerCache,
    cache_slots,
    init_cache,
    update_layer,
)
from gemma3_export.model.config import LayerType
from hypothesis import given, settings
from hypothesis import strategies as st

from .small import small_config

WINDOW = 5
KINDS = list(LayerType)
Plan = list[list[int]]
"""For each call the valid tokens of each row."""


def should_see(kind: LayerType, window: int, position: int) -> set[int]:
    first = 0 if kind == LayerType.FULL else max(0, position - window + 1)
    return set(range(first, position + 1))


@functools.lru_cache
def compiled(kind: LayerType, slots: int, tokens: int, decode: bool) -> Callable:
    """One call on a cache of marks: (visible old slots, cache before and after)."""

    def call(cache: LayerCache, start: jax.Array, length: jax.Array):
        positions = start[:, None] + jnp.arange(tokens, dtype=jnp.int32)
        marks = mark(jnp.arange(len(start), dtype=jnp.int32)[:, None], positions)
        padding = jnp.arange(tokens, dtype=jnp.int32) >= length[:, None]
        marks = jnp.where(padding, -1.0, marks)[:, None, :, None]  # [B,1,T,1]
        new = LayerCache(marks, -marks)
        seen = Visibility.of(kind, slots, WINDOW, start, tokens, None).old
        return seen, update_layer(kind, cache, new, start, None if decode else length)

    return jax.jit(call)


def mark(row: jax.Array, position: jax.Array) -> jax.Array:
    """A number that says whose position this is; never 0, which a fresh cache holds."""
    return (row * 1000 + position + 1).astype(jnp.float32)


def within_chunk(kind: LayerType, tokens: int) -> np.ndarray:
    """Which tokens of a chunk each token of it sees: [T,T]."""
    start = jnp.zeros(1, jnp.int32)
    return np.asarray(Visibility.of(kind, 1, WINDOW, start, tokens, None).new[0])


def replay(kind: LayerType, cache: int, tokens: int, plan: Plan, decode: bool = False) -> None:
    """Run the plan and hold what every query sees, and every slot, against the notebook."""
    slots = min(WINDOW, cache) if kind == LayerType.SLIDING else cache
    rows = len(plan[0])
    zeros = jnp.zeros((rows, 1, slots, 1), jnp.float32)
    layer = LayerCache(zeros, zeros)
    start = np.zeros(rows, np.int32)
    within = within_chunk(kind, tokens)
    for lengths in plan:
        before = np.asarray(layer.key)[:, 0, :, 0]
        length = np.array(lengths, np.int32)
        seen, layer = compiled(kind, slots, tokens, decode)(layer, start, length)
        after = np.asarray(layer.key)[:, 0, :, 0]
        np.testing.assert_array_equal(layer.value, -layer.key)
        for row in range(rows):
            if lengths[row] == 0:
                np.testing.assert_array_equal(after[row], before[row])
            for t in range(lengths[row]):
                position = int(start[row]) + t
                old = before[row][np.asarray(seen)[row, t]] - 1000 * row - 1
                new = start[row] + np.nonzero(within[t])[0]
                found = sorted([*old.astype(int), *new])
                assert found == sorted(should_see(kind, WINDOW, position)), (position, plan)
        start = start + length
        for row in range(rows):
            held = [p for p in range(start[row]) if p >= start[row] - slots]
            for position in held:
                assert after[row, position % slots] == 1000 * row + position + 1


@st.composite
def plans(draw: st.DrawFn, rows: int, tokens: int, cache: int) -> Plan:
    """Calls of up to `tokens` per row, rows at their own pace, none beyond the cache."""
    left = [cache] * rows
    calls = []
    for _ in range(draw(st.integers(1, 8))):
        lengths = [draw(st.integers(0, min(tokens, room))) for room in left]
        left = [room - length for room, length in zip(left, lengths, strict=True)]
        calls.append(lengths)
    return calls


@pytest.mark.parametrize("rows", [1, 3])
@pytest.mark.parametrize("cache", [3, 17])  # a ring shorter than its window, and a whole one
@pytest.mark.parametrize("tokens", [1, 3, 12])
@pytest.mark.parametrize("kind", KINDS)
def test_any_plan_of_chunks_sees_what_an_endless_cache_would_show(
    kind: LayerType, tokens: int, cache: int, rows: int
):
    tokens = min(tokens, cache)

    @settings(max_examples=25, deadline=None, derandomize=True)
    @given(plans(rows, tokens, cache))
    def check(plan: Plan) -> None:
        replay(kind, cache, tokens, plan)

    check()


@pytest.mark.parametrize("rows", [1, 3])
@pytest.mark.parametrize("cache", [3, 17])
@pytest.mark.parametrize("kind", KINDS)
def test_single_tokens_fill_a_cache_to_its_end(kind: LayerType, cache: int, rows: int):
    replay(kind, cache, 1, [[1] * rows] * cache, decode=True)


@pytest.mark.parametrize("kind", KINDS)
def test_a_chunk_longer_than_the_window_leaves_its_last_tokens(kind: LayerType):
    replay(kind, 17, 12, [[12, 11, 6], [5, 6, 11]])


@pytest.mark.parametrize("rows", [1, 2])
@pytest.mark.parametrize("kind", KINDS)
def test_a_chunk_whose_padding_runs_over_the_end_overwrites_nothing(kind: LayerType, rows: int):
    replay(kind, 17, 12, [[12] * rows, [4] * rows, [1] * rows, [0] * rows])


@pytest.mark.parametrize("kind", KINDS)
def test_padding_never_evicts_a_key(kind: LayerType):
    slots = WINDOW if kind == LayerType.SLIDING else 17
    full = jnp.arange(1, slots + 1, dtype=jnp.float32)[None, None, :, None]
    poison = jnp.full((1, 1, 12, 1), jnp.nan)
    start, length = jnp.array([5], jnp.int32), jnp.array([0], jnp.int32)
    cache = LayerCache(full, full)
    for _ in range(2):
        cache = update_layer(kind, cache, LayerCache(poison, poison), start, length)
    np.testing.assert_array_equal(cache.key, full)
    np.testing.assert_array_equal(cache.value, full)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("slots", "window"), [(5, 5), (3, 5), (1, 1), (4, 4), (6, 4)])
def test_visible_slots_are_those_a_writer_of_single_tokens_left(
    kind: LayerType, slots: int, window: int
):
    limit = slots if kind == LayerType.FULL else 14
    for start in range(limit + 1):
        held = {position % slots: position for position in range(start)}
        positions = np.arange(start, start + 4, dtype=np.int32)
        got = Visibility.of(kind, slots, window, jnp.array([start], jnp.int32), 4, None).old
        for t, position in enumerate(positions):
            expected = [
                slot in held and held[slot] in should_see(kind, window, int(position))
                for slot in range(slots)
            ]
            assert np.asarray(got)[0, t].tolist() == expected, (start, position)


@pytest.mark.parametrize("kind", KINDS)
def test_within_a_chunk_tokens_see_back_as_far_as_the_window(kind: LayerType):
    got = within_chunk(kind, 12)
    for query in range(12):
        assert set(np.nonzero(got[query])[0]) == should_see(kind, WINDOW, query)


@pytest.mark.parametrize(("cache", "ring"), [(64, 5), (5, 5), (4, 4)])
def test_a_fresh_cache_has_rings_on_sliding_layers_and_is_zeros(cache: int, ring: int):
    config = small_config()
    layers = init_cache(config, 3, cache, jnp.bfloat16)
    assert len(layers) == config.num_hidden_layers
    for kind, layer in zip(config.layer_types, layers, strict=True):
        slots = ring if kind == LayerType.SLIDING else cache
        assert cache_slots(config, kind, cache) == slots
        for part in (layer.key, layer.value):
            assert part.shape == (3, 2, slots, 8)
            assert part.dtype == jnp.bfloat16
            assert not part.any()


@pytest.mark.parametrize("dtype", ["float32", "int8"])
def test_a_fresh_cache_can_be_donated(dtype: str):
    layers = init_cache(small_config(), 1, 8, jnp.dtype(dtype))
    given = jax.tree.leaves(layers)
    jax.block_until_ready(jax.jit(lambda x: x, donate_argnums=0)(layers))
    assert len({id(part) for part in given}) == len(given)
    assert all(part.is_deleted() for part in given)
