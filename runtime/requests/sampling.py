"""How the next token is drawn; the drawing itself happens on the device."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from ...artifacts.convention import INT32_MAX, SAMPLING, SamplingInput
from ...artifacts.errors import UsageError, argument

DEFAULT_NEW_TOKENS = 64
"""Tokens to generate where nobody says how many, or what fits if that is less."""


def check_new_tokens(count: int) -> None:
    """Raise UsageError for a number of new tokens that no program can count to."""
    if not 1 <= count <= INT32_MAX:
        expected = "at least 1" if count < 1 else f"at most {INT32_MAX}"
        raise UsageError(f"max new tokens: expected {expected}, got {count}")


@dataclass(frozen=True)
class SamplingParameters:
    """How the tokens of a row are drawn; the default is greedy.

    `temperature` 0 takes the likeliest token and ignores what says how to draw. `top_k` 0, `top_p`
    1 and `min_p` 0 are off. The noise depends only on `seed` and the position of the token, so the
    same seed gives the same text whatever the batch. Logits of tokens that are in the text already,
    of the prompt and new ones, are divided by `repetition_penalty`, or multiplied where they are
    negative; 1 is off. Raises UsageError for a value out of range.
    """

    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    seed: int = 0
    repetition_penalty: float = 1.0

    def __post_init__(self) -> None:
        for each in SAMPLING:
            value = getattr(self, each.name)
            if not each.accepts(value):
                raise UsageError(f"{argument(each.name)}: expected {each.expected}, got {value}")


def check_sampling_taken(
    samplings: Iterable[SamplingParameters], taken: Collection[str], source: str
) -> None:
    """Raise UsageError for a parameter that is not among the inputs that programs take.

    `source` says where the programs are from.
    """
    for each in SAMPLING:
        asked = any(getattr(sampling, each.name) != each.neutral for sampling in samplings)
        if asked and each.name not in taken:
            raise UsageError(
                f"{argument(each.name)}: expected {each.neutral:g} (off), since the programs of "
                f"{source} take no {each.name}; export the checkpoint again"
            )


def sampling_arrays(rows: Sequence[SamplingParameters], batch: int) -> dict[str, np.ndarray]:
    """The sampling inputs of a program by name, each [B].

    Row i draws as `rows[i]` says; rows beyond them are greedy. Values that float32 would turn into
    0 or infinity are brought to the nearest that programs can divide by.
    """
    all_rows = [*rows, *[SamplingParameters()] * (batch - len(rows))]
    return {
        each.name: np.array([_fed(each, getattr(row, each.name)) for row in all_rows], each.dtype)
        for each in SAMPLING
    }


def _fed(each: SamplingInput, value: float) -> float:
    least, most = each.fed
    return value if value == each.neutral else min(max(value, least), most)


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
