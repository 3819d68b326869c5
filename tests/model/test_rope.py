"""Rotary tables of every variant against the formulas of the papers, written out in float64."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
from gemma3_export.model.api import Gemma3TextModel
from gemma3_export.model.config import PUBLISHED_SIZES, LayerType
from gemma3_export.model.rope import apply_rope, local_frequencies, rope_tables

from .small import small_config

DIM, THETA, MAXIMUM = 32, 10_000.0, 256
SHORT = [1.0 + 0.05 * i for i in range(DIM // 2)]
LONG = [1.0 + 0.5 * i for i in range(DIM // 2)]

Formula = Callable[[int], tuple[np.ndarray, float]]
"""From the length of the sequence to inverse frequencies [DIM/2] and the factor on cos and sin."""


def plain(theta: float = THETA) -> np.ndarray:
    return np.array([theta ** (-2 * i / DIM) for i in range(DIM // 2)])


def dynamic(factor: float) -> Formula:
    def formula(length: int) -> tuple[np.ndarray, float]:
        stretch = factor * max(length, MAXIMUM) / MAXIMUM - (factor - 1)
        return plain(THETA * stretch ** (DIM / (DIM - 2))), 1.0

    return formula


def yarn(
    factor: float, original: int, attention: float, fast: float = 32.0, slow: float = 1.0,
    truncate: bool = True,
) -> Formula:  # fmt: skip
    def where_it_turns(times: float) -> float:
        """The pair that turns so many times within the original length."""
        return DIM * math.log(original / (times * 2 * math.pi)) / (2 * math.log(THETA))

    low, high = where_it_turns(fast), where_it_turns(slow)
    if truncate:
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, DIM - 1)

    def formula(length: int) -> tuple[np.ndarray, float]:
        frequencies = []
        for i, frequency in enumerate(plain()):
            stretched = min(max((i - low) / (high - low), 0), 1)
            frequencies.append(frequency / factor * stretched + frequency * (1 - stretched))
        return np.array(frequencies), attention

    return formula


def longrope(original: int, attention: float) -> Formula:
    def formula(length: int) -> tuple[np.ndarray, float]:
        return plain() / (LONG if length > original else SHORT), attention

    return formula


def llama3(factor: float, low: float, high: float, original: int) -> Formula:
    def one(frequency: float) -> float:
        turns = original * frequency / (2 * math.pi)
        if turns < low:
            return frequency / factor
        if turns > high:
            return frequency
        smooth = (turns - low) / (high - low)
        return (1 - smooth) * frequency / factor + smooth * frequency

    return lambda length: (np.array([one(f) for f in plain()]), 1.0)


def mscale(factor: float, by: float = 1.0) -> float:
    return 0.1 * by * math.log(factor) + 1


YARN = {"rope_type": "yarn", "factor": 8.0, "original_max_position_embeddings": 64}
LONGROPE = {"rope_type": "longrope", "short_factor": SHORT, "long_factor": LONG}
LLAMA3 = {
    "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
    "original_max_position_embeddings": 128,
}  # fmt: skip

VARIANTS: list[tuple[dict[str, Any] | None, Formula]] = [
    (None, lambda length: (plain(), 1.0)),
    ({"rope_type": "default"}, lambda length: (plain(), 1.0)),
    ({"rope_type": "linear", "factor": 8.0}, lambda length: (plain() / 8, 1.0)),
    ({"type": "linear", "factor": 2.5}, lambda length: (plain() / 2.5, 1.0)),
    ({"rope_type": "dynamic", "factor": 4.0}, dynamic(4.0)),
    (YARN, yarn(8, 64, mscale(8))),
    (YARN | {"attention_factor": 0.75}, yarn(8, 64, 0.75)),
    (YARN | {"beta_fast": 8.0, "beta_slow": 0.5}, yarn(8, 64, mscale(8), 8, 0.5)),
    (YARN | {"truncate": False}, yarn(8, 64, mscale(8), truncate=False)),
    (
        YARN | {"mscale": 1.5, "mscale_all_dim": 0.5},
        yarn(8, 64, mscale(8, 1.5) / mscale(8, 0.5)),
    ),
    ({"rope_type": "yarn", "factor": 8.0}, yarn(8, MAXIMUM, mscale(8))),
    (
        LONGROPE | {"original_max_position_embeddings": 64},
        longrope(64, math.sqrt(1 + math.log(MAXIMUM / 64) / math.log(64))),
    ),
    (
        LONGROPE | {"original_max_position_embeddings": 64, "factor": 16.0},
        longrope(64, math.sqrt(1 + math.log(16) / math.log(64))),
    ),
    (
        LONGROPE | {"original_max_position_embeddings": 64, "attention_factor": 1.25},
        longrope(64, 1.25),
    ),
    (LONGROPE, longrope(MAXIMUM, 1.0)),
    (LLAMA3, llama3(8, 1, 4, 128)),
]

config_of = lambda scaling, **changes: small_config(  # noqa: E731
    head_dim=DIM, rope_theta=THETA, max_position_embeddings=MAXIMUM, rope_scaling=scaling,
    rope_local_base_freq=500.0, **changes,
)  # fmt: skip


def read_back(cos: np.ndarray, sin: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Frequencies and factor from the tables of position 1: angles below pi are frequencies."""
    return np.arctan2(sin, cos), np.hypot(cos, sin)


def tables(scaling: dict[str, Any] | None, kind: LayerType, lengths: list[int]):
    """Tables [rows, DIM/2] of position 1 in rows that are `lengths` long."""
    position = jnp.ones((len(lengths), 1), jnp.int32)
    last = jnp.array(lengths, jnp.int32) - 1
    cos, sin = rope_tables(config_of(scaling), kind, position, last)
    assert cos.dtype == sin.dtype == jnp.float32
    return (np.broadcast_to(x, (len(lengths), 1, DIM // 2))[:, 0] for x in (cos, sin))


# On either side of every limit above, all in one batch: each row goes by its own length.
LENGTHS = [2, 64, 65, 255, 256, 257, 1000]


@pytest.mark.parametrize(("scaling", "formula"), VARIANTS, ids=[str(s)[:70] for s, _ in VARIANTS])
def test_global_layers_turn_by_the_formula_of_their_variant(
    scaling: dict[str, Any] | None, formula: Formula
):
    frequencies, factor = read_back(*tables(scaling, LayerType.FULL, LENGTHS))
    for row, length in enumerate(LENGTHS):
        expected, expected_factor = formula(length)
        np.testing.assert_allclose(frequencies[row], expected, rtol=2e-6)
        np.testing.assert_allclose(factor[row], expected_factor, rtol=2e-6)


@pytest.mark.parametrize("scaling", [scaling for scaling, _ in VARIANTS], ids=str)
def test_scaling_of_global_layers_leaves_sliding_layers_alone(scaling: dict[str, Any] | None):
    frequencies, factor = read_back(*tables(scaling, LayerType.SLIDING, LENGTHS))
    np.testing.assert_allclose(frequencies, np.tile(plain(500.0), (len(LENGTHS), 1)), rtol=2e-6)
    np.testing.assert_allclose(factor, 1, rtol=1e-6)


@pytest.mark.parametrize("scaling", [scaling for scaling, _ in VARIANTS], ids=str)
def test_sliding_layers_turn_by_a_variant_of_their_own(scaling: dict[str, Any] | None):
    """With bases exchanged, sliding layers have the tables that global ones had."""
    position, last = jnp.ones((len(LENGTHS), 1), jnp.int32), jnp.array(LENGTHS, jnp.int32) - 1
    swapped = dataclasses.replace(
        config_of(None), rope_local_base_freq=THETA, rope_theta=500.0, rope_local_scaling=scaling
    )
    sliding = rope_tables(swapped, LayerType.SLIDING, position, last)
    for got, expected in zip(sliding, tables(scaling, LayerType.FULL, LENGTHS), strict=True):
        np.testing.assert_array_equal(
            np.broadcast_to(got, (len(LENGTHS), 1, DIM // 2))[:, 0], expected
        )
    full = read_back(*rope_tables(swapped, LayerType.FULL, position, last))
    np.testing.assert_allclose(full[0][0, 0], plain(500.0), rtol=2e-6)


@pytest.mark.parametrize("kind", ["dynamic", "longrope"])
def test_a_variant_that_goes_by_length_does_change_with_it(kind: str):
    scaling = next(s for s, _ in VARIANTS if s is not None and s.get("rope_type") == kind)
    frequencies, _ = read_back(*tables(scaling, LayerType.FULL, [64, 1000]))
    assert abs(frequencies[0] / frequencies[1] - 1).max() > 0.1


def test_angles_are_float32_products_as_in_transformers_even_at_the_last_position():
    config = PUBLISHED_SIZES["27b"]
    positions = np.array([[0, 1, 1023, 1024, 40_000, 131_071]], np.int32)
    last = jnp.array([131_071], jnp.int32)
    cos, sin = rope_tables(config, LayerType.FULL, jnp.asarray(positions), last)
    exact = 1e6 ** -(np.arange(0, 128, 2) / 128)
    frequencies = exact.astype(np.float32) / np.float32(8)
    angles = (positions.astype(np.float32)[..., None] * frequencies).astype(np.float64)
    np.testing.assert_allclose(cos, np.cos(angles), atol=1e-6)
    np.testing.assert_allclose(sin, np.sin(angles), atol=1e-6)


def test_default_frequencies_are_the_table_of_sliding_layers_which_are_never_scaled():
    config = dataclasses.replace(
        config_of({"rope_type": "linear", "factor": 8.0}),
        rope_local_base_freq=500.0, freq_max_position_embeddings=7,
    )  # fmt: skip
    np.testing.assert_allclose(local_frequencies(config), plain(500.0), rtol=1e-7)
    table = Gemma3TextModel(config, jnp.dtype(jnp.float32)).default_frequencies
    assert table.shape == (7, config.head_dim)
    np.testing.assert_allclose(table[:, : DIM // 2], np.cos(np.outer(range(7), plain(500.0))), 1e-5)
    np.testing.assert_allclose(
        table[:, DIM // 2 :], np.sin(np.outer(range(7), plain(500.0))), rtol=1e-5, atol=1e-6
    )


def test_rotation_pairs_the_halves_of_a_head():
    numbers = np.random.default_rng(1)
    x = numbers.normal(size=(2, 3, 4, 6)).astype(np.float32)  # [B,T,heads,H]
    angles = numbers.normal(size=(2, 3, 3))
    cos, sin = (jnp.asarray(f(angles), jnp.float32) for f in (np.cos, np.sin))
    turned = (x[..., :3] + 1j * x[..., 3:]) * np.exp(1j * angles)[:, :, None, :]
    expected = np.concatenate([turned.real, turned.imag], axis=-1)
    np.testing.assert_allclose(apply_rope(jnp.asarray(x), cos, sin), expected, atol=1e-6)
