"""The whole text stack: chunks, rows and platforms against one pass over the whole text."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from gemma3_export.model.cache import init_cache
from gemma3_export.model.config import Gemma3TextConfig, LayerType
from gemma3_export.model.lowering.context import LoweringContext
from gemma3_export.model.lowering.target import Platform
from gemma3_export.model.pure.causal_lm import CausalLM
from hypothesis import given, settings
from hypothesis import strategies as st

from .small import SMALL, reference_logits, small_config, small_weights

CACHE, ROWS = 24, 2
WEIGHTS = small_weights(SMALL)
TEXTS = np.random.default_rng(3).integers(0, SMALL.vocab_size, (ROWS, CACHE))
WHOLE = [reference_logits(SMALL, WEIGHTS, list(text)) for text in TEXTS]

Forward = Callable[..., tuple[jax.Array, tuple]]


def forward(
    config: Gemma3TextConfig, dtype: str = "float32", context: LoweringContext | None = None
) -> Forward:
    """(weights, tokens, start, length, cache) -> (logits [B,T,V], cache), compiled."""
    model, context = CausalLM(config, jnp.dtype(dtype)), context or LoweringContext()

    def run(weights, tokens, start, length, cache):
        hidden, cache = model.forward(weights, tokens, start, length, cache, context)
        return model.logits(weights, hidden, context), cache

    # What is tested is the mathematics; half the time would go into machine code of no use.
    return jax.jit(run, compiler_options={"xla_backend_optimization_level": 0})


small_forward = functools.lru_cache(forward)


def fresh(config: Gemma3TextConfig = SMALL, rows: int = ROWS, dtype: str = "float32"):
    return init_cache(config, rows, CACHE, jnp.dtype(dtype))


def chunk(start: np.ndarray, length: np.ndarray, tokens: int) -> np.ndarray:
    """The next tokens of each text; padding is whatever stands there, never zeros."""
    padded = np.full((len(start), tokens), SMALL.vocab_size - 1, np.int32)
    for row, (first, count) in enumerate(zip(start, length, strict=True)):
        padded[row, :count] = TEXTS[row, first : first + count]
    return padded


@settings(max_examples=12, deadline=None, derandomize=True)
@given(
    st.sampled_from([3, 8]),
    st.lists(st.tuples(st.integers(0, 8), st.integers(0, 8)), min_size=2, max_size=6),
)
def test_any_chunks_of_unequal_rows_give_the_logits_of_the_whole_text(
    tokens: int, calls: list[tuple[int, int]]
):
    run = small_forward(SMALL)
    cache, start = fresh(), np.zeros(ROWS, np.int32)
    for wanted in calls:
        length = np.minimum(np.minimum(wanted, tokens), CACHE - start).astype(np.int32)
        logits, cache = run(WEIGHTS, chunk(start, length, tokens), start, length, cache)
        for row in range(ROWS):
            np.testing.assert_allclose(
                logits[row, : length[row]],
                WHOLE[row][start[row] : start[row] + length[row]],
                atol=2e-4,
            )
        start = start + length


def test_one_token_at_a_time_gives_the_logits_of_the_whole_text():
    run, cache = small_forward(SMALL), fresh()
    for position in range(CACHE):
        start = np.full(ROWS, position, np.int32)
        logits, cache = run(WEIGHTS, TEXTS[:, position : position + 1], start, None, cache)
        for row in range(ROWS):
            np.testing.assert_allclose(logits[row, 0], WHOLE[row][position], atol=2e-4)


VARIANTS = {
    "untied": {"tie_word_embeddings": False},
    "bias": {"attention_bias": True},
    "one key head": {"num_key_value_heads": 1},
    "a key head each": {"num_key_value_heads": 4},
    "final softcap": {"final_logit_softcapping": 2.0},
    "attention softcap": {"attn_logit_softcapping": 0.5},
    "the query scalar of the 27B": {"query_pre_attn_scalar": 168},
    "odd eps": {"rms_norm_eps": 0.1},
    "all sliding": {"sliding_window_pattern": 9},
    "window of one": {"sliding_window": 1},
    "window beyond the cache": {"sliding_window": 100},
}


@pytest.mark.parametrize("changes", VARIANTS.values(), ids=VARIANTS)
def test_each_field_of_the_config_does_what_it_says(changes: dict):
    config = small_config(**changes)
    weights = small_weights(config)
    tokens = TEXTS[:1, :12].astype(np.int32)
    start, length = np.zeros(1, np.int32), np.full(1, 12, np.int32)
    logits, _ = forward(config)(weights, tokens, start, length, fresh(config, 1))
    expected = reference_logits(config, weights, list(tokens[0]))
    np.testing.assert_allclose(logits[0], expected, atol=3e-4)
    plain = reference_logits(SMALL, small_weights(SMALL), list(tokens[0]))
    assert abs(expected - plain).max() > 0.01  # the field matters


@pytest.mark.parametrize(
    "changes",
    [
        {"vocab_size": 100}, {"hidden_size": 24}, {"intermediate_size": 40},
        {"num_hidden_layers": 3}, {"num_attention_heads": 8}, {"head_dim": 16},
    ],
    ids=str,
)  # fmt: skip
def test_sizes_of_the_config_are_those_of_the_computation(changes: dict):
    config = small_config(**changes)
    weights, tokens = small_weights(config), TEXTS[:1, :7].astype(np.int32)
    start, length = np.zeros(1, np.int32), np.full(1, 7, np.int32)
    logits, cache = forward(config)(weights, tokens, start, length, fresh(config, 1))
    expected = reference_logits(config, weights, list(tokens[0]))
    np.testing.assert_allclose(logits[0], expected, atol=3e-4)
    assert logits.shape == (1, 7, config.vocab_size)
    assert len(cache) == config.num_hidden_layers
    assert cache[0].key.shape[3] == config.head_dim
    sizes = [{p.name: p.shape for p in CausalLM(c, jnp.dtype("f4")).parameters()}
             for c in (config, SMALL)]  # fmt: skip
    assert sizes[0] != sizes[1]


@pytest.mark.parametrize("platform", [Platform.CUDA, Platform.TPU])
@pytest.mark.parametrize(("rows", "tokens"), [(1, 1), (2, 8)])
def test_the_platform_never_changes_what_is_computed(platform: Platform, tokens: int, rows: int):
    start = np.arange(rows, dtype=np.int32)
    length = None if tokens == 1 else np.full(rows, tokens, np.int32)
    chunk = TEXTS[:rows, :tokens].astype(np.int32)
    # Something to read in the cache, so that old keys take part.
    numbers = np.random.default_rng(5)
    cache = jax.tree.map(lambda x: numbers.normal(size=x.shape).astype(x.dtype), fresh(rows=rows))
    results = [
        small_forward(SMALL, context=LoweringContext(name))(WEIGHTS, chunk, start, length, cache)
        for name in (Platform.CPU, platform)
    ]
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-5), *results)


@pytest.mark.parametrize("platform", list(Platform))
def test_bfloat16_stays_near_the_float64_of_the_same_weights(platform: Platform):
    weights = small_weights(SMALL, "bfloat16")
    tokens = TEXTS[:1, :12].astype(np.int32)
    start, length = np.zeros(1, np.int32), np.full(1, 12, np.int32)
    run = forward(SMALL, "bfloat16", LoweringContext(platform))
    logits, cache = run(weights, tokens, start, length, fresh(rows=1, dtype="bfloat16"))
    assert logits.dtype == jnp.float32
    parts = [part for layer in cache for part in layer if part is not None]  # no scales
    assert {part.dtype for part in parts} == {jnp.dtype(jnp.bfloat16)}
    expected = reference_logits(SMALL, weights, list(tokens[0]))
    error = np.asarray(logits[0]) - expected
    assert np.sqrt((error**2).mean() / (expected**2).mean()) < 0.02


def test_a_scaled_sliding_layer_is_a_scaled_full_one_as_long_as_its_window_holds_everything():
    scaled, plain = {"rope_type": "linear", "factor": 8.0}, {"rope_theta": 500.0}
    full = small_config(layer_types=(LayerType.FULL,) * 2, rope_scaling=scaled, **plain)
    sliding = small_config(
        layer_types=(LayerType.SLIDING,) * 2, rope_local_scaling=scaled, rope_local_base_freq=500.0,
        sliding_window=CACHE,
    )  # fmt: skip
    unscaled = dataclasses.replace(sliding, rope_local_scaling=None)

    def logits(config: Gemma3TextConfig) -> np.ndarray:
        start, length = np.zeros(ROWS, np.int32), np.full(ROWS, CACHE, np.int32)
        run = forward(config)
        return np.asarray(run(WEIGHTS, TEXTS.astype(np.int32), start, length, fresh(config))[0])

    np.testing.assert_allclose(logits(sliding), logits(full), atol=1e-5)
    assert np.abs(logits(unscaled) - logits(full)).max() > 0.1
