"""Drawing tokens on the device against the plain definition, by drawing thousands at once."""

from __future__ import annotations

import math

import jax
import numpy as np
import pytest
from gemma3_export.artifacts.convention import SAMPLING
from gemma3_export.export.sampling import SamplingInputs, blocked_largest, sample, whole_largest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

DRAWS = 4096
TINY = np.array([2.0, 1.0, 1.0, 0.5, 0.0, -1.0, 2.0, -4.0], np.float32)
"""Eight tokens: 0 and 6 tied at the top, 1 and 2 tied below them."""

_sample = jax.jit(sample)


def draw(
    logits: np.ndarray, position: np.ndarray, sampling: SamplingInputs,
    kept: np.ndarray | None = None,
) -> jax.Array:  # fmt: skip
    """The next tokens of rows that have `kept` [B,S] so far, by default tokens 0."""
    if kept is None:
        kept = np.zeros((len(logits), 4), np.int32)
    return _sample(logits, position, sampling, kept)


def test_parameters_are_in_the_order_of_the_table():
    assert SamplingInputs._fields == tuple(each.name for each in SAMPLING)


def penalized(logits: np.ndarray, tokens: list[int], penalty: float) -> np.ndarray:
    """Logits as transformers' RepetitionPenaltyLogitsProcessor gives them."""
    result = logits.copy()
    for token in set(tokens):
        score = np.float32(logits[token])
        result[token] = score * np.float32(penalty) if score < 0 else score / np.float32(penalty)
    return result


@pytest.mark.parametrize("penalty", [1.3, 0.5, 1e9])
def test_tokens_that_a_row_has_are_less_likely_by_the_penalty(penalty: float):
    """Those from its position on are not looked at, one that is there twice is penalised once, and
    negative logits go down as well."""
    random = np.random.default_rng(4)
    logits = random.normal(size=(64, 32)).astype(np.float32)
    kept = random.integers(0, 32, (64, 12)).astype(np.int32)
    position = random.integers(0, 13, 64).astype(np.int32)
    rows = parameters(64, temperature=0, repetition_penalty=penalty)
    expected = [
        penalized(logits[row], kept[row, : position[row]].tolist(), penalty).argmax()
        for row in range(64)
    ]
    assert draw(logits, position, rows, kept).tolist() == expected
    assert expected != logits.argmax(1).tolist()


def test_a_penalty_comes_before_the_temperature_and_what_is_cut_off():
    tokens = [0, 6, 6]
    rows = DRAWS
    chosen = parameters(rows, 0.7, top_k=3, seed=np.arange(rows), repetition_penalty=3.0)
    kept = np.tile(np.array([*tokens, 1], np.int32), (rows, 1))
    drawn = draw(np.tile(TINY, (rows, 1)), np.full(rows, 3, np.int32), chosen, kept)
    check_distribution(
        np.asarray(drawn), reference(penalized(TINY, tokens, 3.0), temperature=0.7, top_k=3)
    )


@given(st.integers(0, 2**32 - 1), st.sampled_from([1024, 64 * 41, 257 * 16]))
@settings(max_examples=20, deadline=None)
def test_the_first_of_equal_largest_is_found_by_blocks_too(seed: int, size: int):
    random = np.random.default_rng(seed)
    x = random.integers(-3, 4, (3, size)).astype(np.float32)  # many are equal
    x[0] = -np.inf
    x[1, random.integers(size)] = 9.0
    expected = x.argmax(1)
    np.testing.assert_array_equal(blocked_largest(jax.numpy.asarray(x)), expected)
    np.testing.assert_array_equal(whole_largest(jax.numpy.asarray(x)), expected)


def parameters(
    rows: int, temperature: float = 1.0, top_k: int = 0, top_p: float = 1.0, min_p: float = 0.0,
    seed: int | np.ndarray = 0, repetition_penalty: float = 1.0,
) -> SamplingInputs:  # fmt: skip
    return SamplingInputs(
        np.full(rows, temperature, np.float32),
        np.full(rows, top_k, np.int32),
        np.full(rows, top_p, np.float32),
        np.full(rows, min_p, np.float32),
        np.broadcast_to(np.asarray(seed, np.uint32), (rows,)),
        np.full(rows, repetition_penalty, np.float32),
    )


def draws(logits: np.ndarray, **settings: float) -> np.ndarray:
    """Tokens drawn from the same logits under DRAWS seeds."""
    rows = np.tile(logits, (DRAWS, 1))
    chosen = parameters(DRAWS, seed=np.arange(DRAWS), **settings)
    return np.asarray(draw(rows, np.zeros(DRAWS, np.int32), chosen))


def reference(
    logits: np.ndarray, temperature: float = 1.0, top_k: int = 0, top_p: float = 1.0,
    min_p: float = 0.0,
) -> np.ndarray:  # fmt: skip
    """Probability of each token: temperature, top-k, top-p, min-p; ties at a cut all stay."""
    scaled = logits.astype(np.float64) / temperature
    kept = np.ones(len(logits), bool)

    def probabilities() -> np.ndarray:
        weights = np.where(kept, np.exp(scaled - scaled.max()), 0)
        return weights / weights.sum()

    if 0 < top_k < len(logits):
        kept &= scaled >= np.sort(scaled)[-top_k]
    if top_p < 1:
        p, levels = probabilities(), np.unique(scaled)[::-1]
        enough = next(level for level in levels if p[scaled >= level].sum() >= top_p - 1e-9)
        kept &= scaled >= enough
    p = probabilities()
    kept &= p >= min_p * p.max() * (1 - 1e-6)
    return probabilities()


def check_distribution(tokens: np.ndarray, expected: np.ndarray) -> None:
    """Nothing outside the support, and Pearson's statistic within 6 deviations of its mean."""
    counts = np.bincount(tokens, minlength=len(expected))
    assert not counts[expected == 0].any(), (counts, expected)
    support = expected > 0
    wanted = len(tokens) * expected[support]
    statistic = ((counts[support] - wanted) ** 2 / wanted).sum()
    freedom = support.sum() - 1
    assert statistic <= freedom + 6 * math.sqrt(2 * freedom) + 6, (counts, expected)


SETTINGS = [
    {},
    {"temperature": 0.5},
    {"temperature": 3.0},
    {"top_k": 1},  # the two at the top are tied: both stay
    {"top_k": 2},
    {"top_k": 3},  # the third is tied with the fourth
    {"top_k": 5},
    {"top_k": 8},
    {"top_k": 1000},
    {"top_p": 0.3},  # within the first tie
    {"top_p": 0.65},
    {"top_p": 0.9},
    {"top_p": 0.999999},
    {"top_p": 1e-30},
    {"min_p": 0.01},
    {"min_p": 0.3},
    {"min_p": 1.0},
    {"top_k": 4, "top_p": 0.8},  # of what top-k left, 0.8 is less than of everything
    {"top_k": 5, "min_p": 0.2},
    {"top_p": 0.9, "min_p": 0.5},
    {"temperature": 2.0, "top_k": 6, "top_p": 0.85, "min_p": 0.1},
    {"temperature": 0.25, "top_p": 0.95},
    {"temperature": 0.25, "min_p": 0.1},
]


@pytest.mark.parametrize("chosen", SETTINGS, ids=str)
def test_tokens_are_drawn_with_the_probabilities_of_the_definition(chosen: dict[str, float]):
    check_distribution(draws(TINY, **chosen), reference(TINY, **chosen))


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    st.lists(st.integers(-6, 6), min_size=8, max_size=8),
    st.sampled_from([0.5, 1.0, 2.0]),
    st.integers(0, 9),
    st.floats(0.01, 1.0),
    st.floats(0.0, 1.0),
)
def test_any_combination_draws_only_what_it_keeps(
    logits: list[int], temperature: float, top_k: int, top_p: float, min_p: float
):
    chosen = {"temperature": temperature, "top_k": top_k, "top_p": top_p, "min_p": min_p}
    values = np.array(logits, np.float32)
    near = [
        reference(values, **(chosen | {"top_p": p, "min_p": m}))
        for p in (max(top_p - 1e-4, 1e-9), min(top_p + 1e-4, 1 - 1e-9) if top_p < 1 else 1)
        for m in (max(min_p - 1e-4, 0), min(min_p + 1e-4, 1))
    ]
    # float32 may fall on either side of a cut that is nearer than its rounding.
    assume(all(((p > 0) == (near[0] > 0)).all() for p in near))
    check_distribution(draws(values, **chosen), reference(values, **chosen))


def test_temperature_zero_takes_the_first_of_the_likeliest_whatever_else_is_asked():
    rows = parameters(3, temperature=0.0, top_k=1, top_p=0.1, min_p=1.0, seed=9)
    logits = np.stack([TINY, TINY[::-1], np.zeros(8, np.float32)])
    assert draw(logits, np.arange(3, dtype=np.int32), rows).tolist() == [0, 1, 0]


def test_top_p_of_nothing_keeps_the_likeliest():
    """FORMAT.md asks for more than 0; a host that gives 0 must not get token 0 for it."""
    logits = np.array([0.0, 1.0, 5.0, 2.0], np.float32)
    assert set(draws(logits, top_p=0.0)) == {2}


def test_the_same_seed_and_position_draw_the_same_token():
    logits = np.random.default_rng(0).normal(size=(1, 5000)).astype(np.float32)
    one = parameters(1, seed=123)
    tokens = [int(draw(logits, np.array([7], np.int32), one)[0]) for _ in range(2)]
    assert tokens[0] == tokens[1]
    others = {int(draw(logits, np.array([p], np.int32), one)[0]) for p in range(8)}
    seeds = {int(draw(logits, np.array([7], np.int32), parameters(1, seed=s))[0]) for s in range(8)}
    assert min(len(others), len(seeds)) > 4


@pytest.mark.parametrize("seed", [0, 1, 2**31, 2**32 - 1])
def test_every_seed_is_a_stream_of_its_own(seed: int):
    logits = np.zeros((1, 1 << 16), np.float32)
    one = int(draw(logits, np.array([3], np.int32), parameters(1, seed=seed))[0])
    next_seed = (seed + 1) % 2**32
    assert one != int(draw(logits, np.array([3], np.int32), parameters(1, seed=next_seed))[0])


def test_a_row_draws_the_same_alone_and_beside_rows_that_ask_for_something_else():
    numbers = np.random.default_rng(1)
    logits = numbers.normal(size=(6, 700)).astype(np.float32) * 3
    position = np.array([5, 5, 900, 0, 31, 2**31 - 1], np.int32)
    rows = SamplingInputs(
        np.array([1.0, 0.0, 0.7, 2.0, 1.0, 1.5], np.float32),
        np.array([0, 3, 40, 0, 0, 2], np.int32),
        np.array([1.0, 1.0, 1.0, 0.8, 1.0, 0.5], np.float32),
        np.array([0.0, 0.0, 0.05, 0.0, 0.3, 0.0], np.float32),
        np.array([1, 1, 2, 2**32 - 1, 4, 5], np.uint32),
        np.array([1.0, 2.0, 1.0, 1.0, 1.5, 1.0], np.float32),
    )
    together = draw(logits, position, rows).tolist()
    for row in range(6):
        alone = SamplingInputs(*(values[row : row + 1] for values in rows))
        one = int(draw(logits[row : row + 1], position[row : row + 1], alone)[0])
        assert one == together[row]
    order = np.array([3, 0, 5, 1, 4, 2])
    shuffled = SamplingInputs(*(values[order] for values in rows))
    assert draw(logits[order], position[order], shuffled).tolist() == [together[i] for i in order]


def test_a_vocabulary_of_gemmas_size_is_cut_exactly():
    logits = np.random.default_rng(2).normal(size=262_144).astype(np.float32) * 4
    best = set(np.argsort(logits)[-40:].tolist())
    rows = 24
    chosen = parameters(rows, temperature=50.0, top_k=40, seed=np.arange(rows))
    tokens = draw(np.tile(logits, (rows, 1)), np.zeros(rows, np.int32), chosen)
    assert set(tokens.tolist()) <= best
    assert len(set(tokens.tolist())) > 10


def test_logits_of_minus_infinity_are_never_drawn():
    logits = np.where(np.arange(8) % 2, -np.inf, TINY).astype(np.float32)
    for chosen in ({}, {"top_k": 6}, {"top_p": 0.99}, {"min_p": 0.01}):
        assert set(draws(logits, **chosen)) <= {0, 2, 4, 6}
