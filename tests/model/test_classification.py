"""The head over classes: where it reads, and how its weight is split."""

from __future__ import annotations

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest
from gemma3_export.model.api.classification import text_lengths
from gemma3_export.model.cache import init_cache
from gemma3_export.model.lowering.context import LoweringContext
from gemma3_export.model.pure.causal_lm import CausalLM
from gemma3_export.model.pure.classifier import SequenceClassifier
from gemma3_export.model.sharding import (
    DATA_MODEL_AXES,
    NAMED_AXES,
    Sharder,
    get_partition_rules,
    match_partition_rule,
)
from jax.sharding import PartitionSpec as P

from .small import SMALL, small_weights

CLASSES = 4
FLOAT = jnp.dtype(jnp.float32)


def test_lengths_reach_the_rightmost_token_that_is_not_padding():
    tokens = jnp.array([[5, 6, 0, 0], [0, 0, 7, 0], [5, 0, 6, 7], [0, 0, 0, 0]], jnp.int32)
    assert text_lengths(tokens, 0).tolist() == [2, 3, 4, 1]


def test_scores_are_the_head_times_the_hidden_state_of_each_row_s_last_valid_token():
    config = dataclasses.replace(SMALL, final_logit_softcapping=0.1)
    weights = small_weights(config)
    numbers = np.random.default_rng(3)
    head = jnp.asarray(numbers.normal(size=(CLASSES, config.hidden_size)), FLOAT)
    tokens = jnp.asarray(numbers.integers(3, 90, (3, 7)), jnp.int32)
    start, length = jnp.zeros(3, jnp.int32), jnp.array([7, 1, 4], jnp.int32)
    cache, context = init_cache(config, 3, 16, FLOAT), LoweringContext()
    hidden, filled = CausalLM(config, FLOAT).forward(weights, tokens, start, length, cache, context)
    scores, after = SequenceClassifier(config, CLASSES, FLOAT).scores(
        {**weights, "score.weight": head}, tokens, start, length, cache, context
    )
    expected = np.stack([hidden[row, size - 1] @ head.T for row, size in enumerate((7, 1, 4))])
    np.testing.assert_allclose(scores, expected, atol=1e-5)
    for one, other in zip(after, filled, strict=True):
        np.testing.assert_array_equal(one.key, other.key)


@pytest.mark.parametrize(
    ("axes", "expected"),
    [(DATA_MODEL_AXES, P(None, "model")), (NAMED_AXES, P(("fsdp", "sp"), "tp"))],
)
def test_the_head_is_split_by_rows_and_the_table_says_so(axes: tuple[str, ...], expected: P):
    (head,) = [
        p for p in SequenceClassifier(SMALL, CLASSES, FLOAT).parameters()
        if p.name == "score.weight"
    ]  # fmt: skip
    sharder = Sharder(dict.fromkeys(axes, 2))
    assert head.shape == (CLASSES, SMALL.hidden_size)
    assert sharder.spec(head.name, head.axes, head.counts) == expected
    assert match_partition_rule(get_partition_rules(axes), head.name) == expected


def test_a_number_of_classes_that_does_not_divide_stays_whole_and_is_reported():
    sharder = Sharder({"fsdp": 2, "tp": 2})
    assert sharder.spec("score.weight", ("labels", "pooled"), (3, 32)) == P(None, "tp")
    assert list(sharder.fallbacks) == [
        "score.weight: labels of 3 is not divisible by fsdp=2, kept whole"
    ]
