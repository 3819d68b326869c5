"""Reading in both directions: who sees whom, and what pooling and dense layers make of it."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import pytest
from gemma3_export.model.cache import visible_both_ways
from gemma3_export.model.config import LayerType
from gemma3_export.model.context import LoweringContext
from gemma3_export.model.embedding import DenseLayer, TextEmbedder
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


def embedding(tokens: list[list[int]], lengths: list[int]) -> np.ndarray:
    model = TextEmbedder(CONFIG, DENSE, FLOAT)
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
        for p in TextEmbedder(CONFIG, DENSE, FLOAT).parameters()
    }
    assert {name for name in found if name.startswith("dense")} == {
        f"dense.{number}.{kind}" for number in (0, 1) for kind in ("weight", "bias")
    }
    for name, spec in found.items():
        assert match_partition_rule(table, name) == spec, name
    if axes == NAMED_AXES:
        assert found["dense.0.weight"] == P("tp", ("fsdp", "sp"))
        assert found["dense.1.weight"] == P(("fsdp", "sp"), "tp")
