"""Attention in blocks against attention over all scores at once, each block read only if seen."""

from __future__ import annotations

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from gemma3_export.model.attention import (
    Visibility,
    attend,
    blocked_attention,
    whole_attention,
)
from gemma3_export.model.cache import LayerCache, cached
from gemma3_export.model.config import LayerType
from gemma3_export.model.lowering.context import LoweringContext
from gemma3_export.model.lowering.table import Blocks, blocks_name
from gemma3_export.model.lowering.target import Platform
from gemma3_export.model.sharding import Sharder

HEADS, KV_HEADS, SIZE = 4, 2, 4
CONTEXT = LoweringContext()
FULL, SLIDING = LayerType.FULL, LayerType.SLIDING


@functools.lru_cache
def both(
    kind: LayerType, shape: tuple[int, int, int], window: int, blocks: Blocks, cap: float | None,
    images: bool,
) -> Callable:  # fmt: skip
    """(start, query, new, old) -> (in blocks, at once), compiled."""
    _, tokens, slots = shape

    def run(start, query, new, old):
        groups = None
        if images:
            place = jnp.arange(tokens, dtype=jnp.int32)
            group = jnp.where((place > 1) & (place < tokens - 2), place // (tokens // 2), -1)
            groups = jnp.broadcast_to(group, (shape[0], tokens))
        visible = Visibility.of(kind, slots, window, start, tokens, groups)
        return (
            blocked_attention(query, new, old, visible, 0.5, cap, CONTEXT, blocks),
            whole_attention(query, new, old, visible, 0.5, cap, CONTEXT),
        )

    return jax.jit(run, compiler_options={"xla_backend_optimization_level": 0})


def random_case(shape: tuple[int, int, int]):
    rows, tokens, slots = shape
    numbers = np.random.default_rng(tokens)

    def normal(*shape: int) -> jax.Array:
        return jnp.asarray(numbers.normal(size=shape), jnp.float32)

    new = LayerCache(*(normal(rows, KV_HEADS, tokens, SIZE) for _ in range(2)))
    old = LayerCache(*(normal(rows, KV_HEADS, slots, SIZE) for _ in range(2)))
    return normal(rows, tokens, HEADS, SIZE), new, old


CASES = {
    # rows, tokens, slots; window; blocks; starts of the rows
    "one token, full": (FULL, (2, 1, 40), 0, Blocks(1, 16), [(0, 0), (39, 3), (16, 32)]),
    "one token, ring": (SLIDING, (1, 1, 40), 40, Blocks(1, 16), [(0,), (17,), (90,)]),
    "blocks that divide": (FULL, (2, 8, 24), 0, Blocks(4, 8), [(0, 0), (8, 16), (3, 9)]),
    "blocks that do not": (FULL, (2, 10, 23), 0, Blocks(4, 7), [(0, 0), (13, 2), (7, 12)]),
    "ring": (SLIDING, (2, 10, 5), 5, Blocks(4, 3), [(0, 0), (3, 44), (5, 4)]),
    "ring as long as the chunk": (SLIDING, (1, 8, 8), 8, Blocks(4, 4), [(0,), (5,), (21,)]),
    "window beyond the cache": (SLIDING, (1, 8, 12), 99, Blocks(3, 5), [(0,), (4,)]),
    "blocks larger than all": (FULL, (1, 6, 9), 0, Blocks(128, 256), [(0,), (3,)]),
}


VARIANTS = [(name, None, False) for name in CASES]
VARIANTS += [("blocks that do not", 0.5, False), ("ring", 0.5, False)]
VARIANTS += [(name, None, True) for name, case in CASES.items() if case[1][1] > 6]


@pytest.mark.parametrize(("name", "cap", "images"), VARIANTS)
def test_blocks_give_what_all_scores_at_once_give(name: str, cap: float | None, images: bool):
    kind, shape, window, blocks, starts = CASES[name]
    query, new, old = random_case(shape)
    for start in starts:
        run = both(kind, shape, window, blocks, cap, images)
        blocked, whole = run(np.array(start, np.int32), query, new, old)
        assert abs(np.asarray(whole)).max() > 0.1
        np.testing.assert_allclose(blocked, whole, atol=2e-6)


@pytest.mark.parametrize("name", ["one token, full", "blocks that do not"])
def test_blocks_of_an_int8_cache_are_scaled_as_the_whole_is(name: str):
    kind, shape, window, blocks, starts = CASES[name]
    query, *layers = random_case(shape)
    new, old = (cached(layer.key, layer.value, jnp.dtype(jnp.int8)) for layer in layers)
    blocked, whole = both(kind, shape, window, blocks, None, False)(
        np.array(starts[1], np.int32), query, new, old
    )
    np.testing.assert_allclose(blocked, whole, atol=2e-6)
    exact = both(kind, shape, window, blocks, None, False)(
        np.array(starts[1], np.int32), query, *layers
    )[1]
    assert 1e-6 < abs(np.asarray(blocked) - np.asarray(exact)).max() < 0.1


@pytest.mark.parametrize("tokens", [1, 8])
def test_slots_that_no_row_has_reached_are_not_read(tokens: int):
    """Where nothing was written there may be anything: a block of it must not even be masked."""
    shape = (2, tokens, 32)
    query, new, old = random_case(shape)
    poisoned = LayerCache(*(part.at[:, :, 16:].set(jnp.nan) for part in old[:2]))
    run = both(FULL, shape, 0, Blocks(4, 8), None, False)
    start = np.array([16, 3], np.int32)
    blocked, whole = run(start, query, new, poisoned)
    assert np.isnan(np.asarray(whole)).any()
    np.testing.assert_array_equal(blocked, run(start, query, new, old)[0])


def test_a_ring_is_not_read_by_queries_beyond_its_reach():
    shape = (1, 12, 4)
    query, new, old = random_case(shape)
    poisoned = LayerCache(*(jnp.full_like(part, jnp.nan) for part in old[:2]))
    blocked, _ = both(SLIDING, shape, 4, Blocks(4, 4), None, False)(
        np.array([9], np.int32), query, new, poisoned
    )
    unread = np.asarray(blocked)[:, 4:]
    assert np.isfinite(unread).all()
    assert not np.isfinite(np.asarray(blocked)[:, 0]).any()


def trace_attention(context: LoweringContext, tokens: int, slots: int) -> jax.stages.Traced:
    """What `attend` makes of one row with HEADS heads on a full layer."""

    def run(start, query, new, old):
        visible = Visibility.of(FULL, slots, 0, start, tokens, None)
        return attend(query, new, old, visible, 1.0, None, context, FULL)

    return jax.jit(run).trace(np.zeros(1, np.int32), *random_case((1, tokens, slots)))


def scores_in(tokens: int, slots: int, context: LoweringContext) -> bool:
    """Whether a lowered attention has an array of queries by all keys of the cache."""
    text = trace_attention(context, tokens, slots).lower().as_text()
    rows = tokens * HEADS // KV_HEADS
    return f"tensor<1x{KV_HEADS}x{rows}x{slots}xf32>" in text


def test_a_long_chunk_never_has_all_its_scores():
    assert not scores_in(512, 2048, LoweringContext())
    assert not scores_in(2048, 32768, LoweringContext(Platform.TPU))
    assert scores_in(512, 2048, LoweringContext(differentiable=True))


@pytest.mark.parametrize(
    ("context", "tokens", "slots", "expected"),
    [
        (LoweringContext(), 1, 512, None),
        (LoweringContext(), 1, 8192, Blocks(1, 512)),
        (LoweringContext(), 8, 24, None),
        (LoweringContext(), 512, 512, Blocks(256, 256)),
        (LoweringContext(Platform.CUDA), 1, 32768, None),
        (LoweringContext(Platform.CUDA), 512, 2048, None),
        (LoweringContext(Platform.TPU), 2048, 32768, Blocks(512, 1024)),
        (LoweringContext(sharder=Sharder({"dp": 1, "sp": 2})), 512, 2048, None),
        (LoweringContext(sharder=Sharder({"data": 2, "model": 4})), 512, 2048, Blocks(256, 256)),
        (LoweringContext(differentiable=True), 512, 2048, None),
    ],
)
def test_blocks_are_chosen_by_platform_shape_and_mesh(
    context: LoweringContext, tokens: int, slots: int, expected: Blocks | None
):
    trace_attention(context, tokens, slots)
    assert context.recorder.forms == {FULL: blocks_name(expected)}
