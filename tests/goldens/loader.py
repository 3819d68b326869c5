"""Typed access to the goldens; standard library only. README.md says how they were made."""

from __future__ import annotations

import functools
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

DATA = Path(__file__).parent / "data"

Best = tuple[tuple[int, float], ...]
"""The most likely tokens of one step as (id, log-probability), most likely first."""


@dataclass(frozen=True)
class Score:
    """A scored sequence: `logprobs[i]` is log p(tokens[i + 1] | tokens[: i + 1])."""

    tokens: tuple[int, ...]
    logprobs: tuple[float, ...]
    loss: float
    """Mean of -logprobs."""


@dataclass(frozen=True)
class TinyPrompt:
    """24 greedy tokens after a prompt given in forward calls of `chunks` tokens."""

    tokens: tuple[int, ...]
    chunks: tuple[int, ...]
    generated: tuple[int, ...]
    best: tuple[Best, ...]
    """Five best at each step; `best[i][0][0] == generated[i]`."""


@dataclass(frozen=True)
class TinyCase:
    """The goldens of one tiny checkpoint of `tiny.TINY`."""

    name: str
    sha256: str
    """`tiny.fingerprint` of the float32 checkpoint they were computed from."""
    prompts: tuple[TinyPrompt, ...]
    score: Score


def _best(steps: list[list[list[float]]]) -> tuple[Best, ...]:
    return tuple(tuple((int(token), value) for token, value in step) for step in steps)


def _score(entry: dict[str, Any]) -> Score:
    return Score(tuple(entry["tokens"]), tuple(entry["logprobs"]), entry["loss"])


def _tiny_case(entry: dict[str, Any]) -> TinyCase:
    prompts = tuple(
        TinyPrompt(
            tokens=tuple(prompt["tokens"]),
            chunks=tuple(prompt["chunks"]),
            generated=tuple(prompt["generated"]),
            best=_best(prompt["best"]),
        )
        for prompt in entry["prompts"]
    )
    return TinyCase(entry["name"], entry["sha256"], prompts, _score(entry["score"]))


@functools.cache
def tiny_cases() -> dict[str, TinyCase]:
    """Every tiny checkpoint's goldens by name."""
    content = json.loads((DATA / "tiny.json").read_text(encoding="utf-8"))
    cases = [_tiny_case(entry) for entry in content["models"]]
    return {case.name: case for case in cases}
