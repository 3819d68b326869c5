"""The image mask against transformers' rule, spelled out one pair at a time."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import pytest
from gemma3_export.model.attention import Visibility
from gemma3_export.model.config import LayerType
from gemma3_export.model.image_mask import (
    SoftTokens,
    image_groups,
    merge_soft_tokens,
)

ROWS = [
    "tttiiiiittt",  # an image larger than the window of 3
    "iitiiitttii",  # images at both ends, and two close together
    "ttttttttttt",
    "iiiiiiiiiii",
]


def groups_of(row: str) -> list[int]:
    """Runs numbered by hand: the rule of `get_block_sequence_ids_for_mask`."""
    groups, count = [], -1
    for place, letter in enumerate(row):
        if letter == "i" and (place == 0 or row[place - 1] == "t"):
            count += 1
        groups.append(count if letter == "i" else -1)
    return groups


def expected(layer_type: LayerType, window: int, groups: list[int]) -> np.ndarray:
    tokens = len(groups)
    mask = np.zeros((tokens, tokens), bool)
    for i in range(tokens):
        for j in range(tokens):
            same = groups[i] == groups[j] and groups[i] >= 0
            near = layer_type == LayerType.FULL or j > i - window
            mask[i, j] = (j <= i or same) and near
    return mask


def seen(layer_type: LayerType, window: int, groups: jnp.ndarray) -> np.ndarray:
    """The mask [B,T,T] of a chunk with these groups [B,T] at the beginning of a text."""
    rows, tokens = groups.shape
    start = jnp.zeros(rows, jnp.int32)
    return np.asarray(Visibility.of(layer_type, 1, window, start, tokens, groups).new)


def test_groups_are_runs_of_soft_tokens_row_by_row():
    is_soft = jnp.asarray([[letter == "i" for letter in row] for row in ROWS])
    assert image_groups(is_soft).tolist() == [groups_of(row) for row in ROWS]
    assert image_groups(is_soft).dtype == jnp.int32


@pytest.mark.parametrize("layer_type", list(LayerType))
@pytest.mark.parametrize("window", [1, 3, 4, 100])
def test_mask_of_each_row_is_the_rule_pair_by_pair(layer_type: LayerType, window: int):
    groups = [groups_of(row) for row in ROWS]
    mask = seen(layer_type, window, jnp.asarray(groups, jnp.int32))
    for row, row_groups in enumerate(groups):
        np.testing.assert_array_equal(mask[row], expected(layer_type, window, row_groups))


def test_image_token_sees_its_whole_image_ahead_but_only_a_window_behind_on_sliding_layers():
    mask = seen(LayerType.SLIDING, 3, jnp.zeros((1, 8), jnp.int32))
    assert mask[0, 0].all()
    assert np.flatnonzero(mask[0, 7]).tolist() == [5, 6, 7]


@pytest.mark.parametrize("layer_type", list(LayerType))
def test_two_images_do_not_see_ahead_into_each_other(layer_type: LayerType):
    groups = jnp.asarray([groups_of("iiitiii")], jnp.int32)
    mask = seen(layer_type, 100, groups)[0]
    assert not mask[:3, 3:].any()
    assert mask[4:, :3].all()  # what lies behind is seen as ever


def test_soft_tokens_replace_embeddings_where_the_index_says():
    embeddings = jnp.arange(12, dtype=jnp.float32).reshape(2, 3, 2)
    values = jnp.asarray([[-1, -2], [-3, -4], [-5, -6]], jnp.float32)
    merged = merge_soft_tokens(
        embeddings, SoftTokens(values, jnp.asarray([[-1, 2, -1], [0, -1, 1]]))
    )
    assert merged.tolist() == [[[0, 1], [-5, -6], [4, 5]], [[-1, -2], [8, 9], [-3, -4]]]
