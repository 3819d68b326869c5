"""Reading texts whole: who sees whom, and what pooling and the layers after it make of it."""

from __future__ import annotations

import dataclasses
import math

import jax.numpy as jnp
import numpy as np
import pytest
from gemma3_export.model.cache import init_cache, visible_both_ways, visible_causally
from gemma3_export.model.config import Gemma3TextConfig, LayerType
from gemma3_export.model.embedding import (
    Activation,
    DenseLayer,
    EmbeddingHead,
    Normalize,
    Pooling,
    pool,
)
from gemma3_export.model.lowering.context import LoweringContext
from gemma3_export.model.pure.causal_lm import CausalLM
from gemma3_export.model.pure.embedder import TextEmbedder
from gemma3_export.model.sharding import (
    DATA_MODEL_AXES,
    NAMED_AXES,
    Sharder,
    get_partition_rules,
    match_partition_rule,
)
from jax.sharding import PartitionSpec as P

from .small import small_config

CONFIG = small_config(use_bidirectional_attention=True)
DENSE = (DenseLayer(48, bias=True), DenseLayer(16, bias=True))
HEAD = EmbeddingHead(layers=(*DENSE, Normalize()))
FLOAT = jnp.dtype(jnp.float32)


@pytest.mark.parametrize(("window", "near"), [(8, 5), (7, 4), (512, 257), (1, 1)])
def test_a_sliding_layer_sees_half_a_window_to_either_side(window: int, near: int):
    size = near + 3
    seen = visible_both_ways(LayerType.SLIDING, window, size, jnp.array([size]))[0]
    distance = np.abs(np.subtract.outer(np.arange(size), np.arange(size)))
    np.testing.assert_array_equal(seen, distance < near)


@pytest.mark.parametrize("kind", LayerType)
def test_padding_is_seen_by_none(kind: LayerType):
    seen = np.asarray(visible_both_ways(kind, 4, 6, jnp.array([6, 4, 0])))
    assert seen.shape == (3, 6, 6)
    assert seen[0, 5, 5]
    assert not seen[1, :, 4:].any()
    assert seen[1, 0, 1]
    assert not seen[2].any()
    if kind == LayerType.FULL:
        assert seen[0].all()


@pytest.mark.parametrize(("window", "near"), [(3, 3), (1, 1), (99, 5)])
def test_without_both_directions_a_token_sees_itself_and_what_is_behind(window: int, near: int):
    behind = np.subtract.outer(np.arange(5), np.arange(5))
    for kind, reach in ((LayerType.SLIDING, near), (LayerType.FULL, 5)):
        seen = np.asarray(visible_causally(kind, window, 5))[0]
        np.testing.assert_array_equal(seen, (behind >= 0) & (behind < reach))


def pooled_by_hand(mode: Pooling, text: np.ndarray) -> np.ndarray:
    """text [T,D] -> [D], by the words of sentence-transformers' documentation."""
    count = len(text)
    match mode:
        case Pooling.CLS:
            return text[0]
        case Pooling.LAST_TOKEN:
            return text[-1]
        case Pooling.MAX:
            return text.max(0)
        case Pooling.MEAN:
            return sum(text) / count
        case Pooling.MEAN_SQRT_LENGTH:
            return sum(text) / math.sqrt(count)
        case Pooling.WEIGHTED_MEAN:
            weights = range(1, count + 1)
            rows = [w * row for w, row in zip(weights, text, strict=True)]
            return sum(rows) / sum(weights)


@pytest.mark.parametrize("mode", Pooling)
def test_pooling_is_that_of_each_text_without_its_padding(mode: Pooling):
    hidden = np.random.default_rng(3).normal(size=(4, 6, 5)).astype(np.float32) - 2
    lengths = [6, 1, 4, 0]
    got = np.asarray(pool(mode, jnp.asarray(hidden), jnp.asarray(lengths, jnp.int32)))
    for row, length in enumerate(lengths[:3]):
        expected = pooled_by_hand(mode, hidden[row, :length])
        np.testing.assert_allclose(got[row], expected, rtol=1e-5, err_msg=str(length))
    assert np.isfinite(got).all()


def embedding(
    tokens: list[list[int]],
    lengths: list[int],
    head: EmbeddingHead = HEAD,
    config: Gemma3TextConfig = CONFIG,
) -> np.ndarray:
    model = TextEmbedder(config, head, FLOAT)
    return np.asarray(
        model.embed(
            model.init(5), jnp.asarray(tokens, jnp.int32), jnp.asarray(lengths, jnp.int32),
            LoweringContext(),
        )
    )  # fmt: skip


def test_what_stands_in_the_padding_changes_nothing_and_empty_rows_are_finite():
    rows = embedding([[5, 6, 7, 8], [5, 6, 9, 9], [5, 6, 0, 0], [1, 1, 1, 1]], [4, 2, 2, 0])
    np.testing.assert_allclose(rows[1], rows[2], atol=1e-6)
    assert np.abs(rows[0] - rows[1]).max() > 1e-3
    assert np.isfinite(rows).all()
    np.testing.assert_allclose(np.linalg.norm(rows[:3], axis=1), 1.0, atol=1e-5)


@pytest.mark.parametrize("axes", [DATA_MODEL_AXES, NAMED_AXES])
def test_the_table_of_expressions_says_what_the_dense_layers_say(axes: tuple[str, ...]):
    sharder, table = Sharder(dict.fromkeys(axes, 2)), get_partition_rules(axes)
    found = {
        p.name: sharder.spec(p.name, p.axes, p.counts)
        for p in TextEmbedder(CONFIG, HEAD, FLOAT).parameters()
    }
    assert {name for name in found if name.startswith("dense")} == {
        f"dense.{number}.{kind}" for number in (0, 1) for kind in ("weight", "bias")
    }
    for name, spec in found.items():
        assert match_partition_rule(table, name) == spec, name
    if axes == NAMED_AXES:
        assert found["dense.0.weight"] == P("tp", ("fsdp", "sp"))
        assert found["dense.1.weight"] == P(("fsdp", "sp"), "tp")


def test_several_poolings_are_joined_in_their_order_and_nothing_is_scaled_unasked():
    modes = (Pooling.LAST_TOKEN, Pooling.CLS, Pooling.MEAN)
    text, lengths = [[5, 6, 7, 8]], [3]
    alone = [embedding(text, lengths, EmbeddingHead((mode,), ())) for mode in modes]
    joined = embedding(text, lengths, EmbeddingHead(modes, ()))
    assert joined.shape == (1, 3 * CONFIG.hidden_size)
    np.testing.assert_allclose(joined, np.concatenate(alone, axis=-1), atol=1e-6)
    assert abs(np.linalg.norm(joined) - 1) > 0.1


@pytest.mark.parametrize(
    ("activation", "expected"),
    [
        (Activation.IDENTITY, lambda x: x),
        (Activation.TANH, np.tanh),
        (Activation.RELU, lambda x: np.maximum(x, 0)),
        (Activation.GELU, lambda x: x * (1 + np.vectorize(math.erf)(x / math.sqrt(2))) / 2),
        (Activation.SIGMOID, lambda x: 1 / (1 + np.exp(-x))),
        (Activation.SILU, lambda x: x / (1 + np.exp(-x))),
    ],
)
def test_a_dense_layer_is_followed_by_its_activation(activation: Activation, expected):
    text, lengths = [[5, 6, 7, 8]], [4]
    plain = DenseLayer(16, bias=True)
    linear = embedding(text, lengths, EmbeddingHead(layers=(plain,)))
    active = dataclasses.replace(plain, activation=activation)
    got = embedding(text, lengths, EmbeddingHead(layers=(active,)))
    np.testing.assert_allclose(got, expected(linear), rtol=1e-5, atol=1e-6)


def test_a_model_that_reads_one_way_gives_what_the_language_model_sees_at_the_last_token():
    config = dataclasses.replace(CONFIG, use_bidirectional_attention=False)
    tokens = list(range(3, 25))  # more than the window holds
    head = EmbeddingHead((Pooling.LAST_TOKEN,), ())
    got = embedding([[*tokens, 0, 0]], [len(tokens)], head, config)
    weights = TextEmbedder(config, head, FLOAT).init(5)
    hidden, _ = CausalLM(config, FLOAT).forward(
        weights, jnp.asarray([tokens], jnp.int32), jnp.array([0]), jnp.array([len(tokens)]),
        init_cache(config, 1, 32, FLOAT), LoweringContext(),
    )  # fmt: skip
    np.testing.assert_allclose(got[0], hidden[0, -1], atol=1e-5)
