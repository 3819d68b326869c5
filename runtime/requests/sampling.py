"""How the next token is drawn; the drawing itself happens on the device."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ...artifacts.errors import UsageError, argument

DEFAULT_NEW_TOKENS = 64
"""Tokens to generate where nobody says how many, or what fits if that is less."""
INT32_MAX = 2**31 - 1
UINT32_MAX = 2**32 - 1
# Logits divided by these stay finite in float32, and differences of 1e-3 stay decisive.
LEAST_TEMPERATURE = 1e-6
MOST_TEMPERATURE = 1e6
LEAST_TOP_P = 1e-30


def check_new_tokens(count: int) -> None:
    """Raise UsageError for a number of new tokens that no program can count to."""
    if not 1 <= count <= INT32_MAX:
        expected = "at least 1" if count < 1 else f"at most {INT32_MAX}"
        raise UsageError(f"max new tokens: expected {expected}, got {count}")


@dataclass(frozen=True)
class SamplingParameters:
    """How the tokens of a row are drawn; the default is greedy.

    `temperature` 0 takes the likeliest token and ignores the rest. `top_k` 0, `top_p` 1 and
    `min_p` 0 are off. The noise depends only on `seed` and the position of the token, so the
    same seed gives the same text whatever the batch. Raises UsageError for a value out of range.
    """

    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    seed: int = 0

    def __post_init__(self) -> None:
        _check(
            math.isfinite(self.temperature) and self.temperature >= 0,
            "temperature", "a finite number of at least 0 (0 is greedy)", self.temperature,
        )  # fmt: skip
        _check(self.top_k >= 0, "top_k", "at least 0 (0 is off)", self.top_k)
        _check(self.top_k <= INT32_MAX, "top_k", f"at most {INT32_MAX}", self.top_k)
        _check(0 < self.top_p <= 1, "top_p", "above 0 and at most 1 (1 is off)", self.top_p)
        _check(0 <= self.min_p <= 1, "min_p", "between 0 and 1 (0 is off)", self.min_p)
        _check(0 <= self.seed <= UINT32_MAX, "seed", f"between 0 and {UINT32_MAX}", self.seed)


def sampling_arrays(rows: Sequence[SamplingParameters], batch: int) -> tuple[np.ndarray, ...]:
    """The five sampling inputs of a program, each [B]: temperature, top_k, top_p, min_p, seed.

    Row i draws as `rows[i]` says; rows beyond them are greedy. Values that float32 would turn into
    0 or infinity are brought to the nearest that programs can divide by.
    """
    all_rows = [*rows, *[SamplingParameters()] * (batch - len(rows))]
    warm = [min(max(row.temperature, LEAST_TEMPERATURE), MOST_TEMPERATURE) for row in all_rows]
    return (
        np.array(
            [t if row.temperature > 0 else 0.0 for t, row in zip(warm, all_rows, strict=True)],
            np.float32,
        ),
        np.array([row.top_k for row in all_rows], np.int32),
        np.array([max(row.top_p, LEAST_TOP_P) for row in all_rows], np.float32),
        np.array([row.min_p for row in all_rows], np.float32),
        np.array([row.seed for row in all_rows], np.uint32),
    )


TopTokens = list[tuple[int, float]]
"""The likeliest tokens with their log-probabilities, likeliest first, ties by id."""


def top_tokens(logits: np.ndarray, count: int) -> TopTokens:
    """The `count` likeliest tokens of logits [V], with log-softmax taken in float64.

    It is NaN everywhere where a logit is NaN or infinity; NaN then counts as the likeliest.
    """
    wide, unknown = logits.astype(np.float64), np.isnan(logits)
    rank = np.where(unknown, np.inf, wide)  # NaN is the likeliest, as the largest on a device is
    with np.errstate(invalid="ignore"):
        wide -= wide.max()
        normaliser = np.log(np.exp(wide).sum())
    count = min(count, wide.size)
    least = np.partition(rank, -count)[-count]
    candidates = np.flatnonzero(rank >= least)  # more than `count` when logits are equal
    order = np.lexsort((candidates, -rank[candidates], ~unknown[candidates]))[:count]
    return [(int(token), float(wide[token] - normaliser)) for token in candidates[order]]


def _check(holds: bool, name: str, expected: str, got: float) -> None:
    if not holds:
        raise UsageError(f"{argument(name)}: expected {expected}, got {got}")
