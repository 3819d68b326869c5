"""Log-probabilities of given texts, through the `score` program."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ..artifacts.convention import IGNORED_LABEL
from ..artifacts.errors import UsageError
from ..artifacts.manifest import Bucket, ProgramName
from .buckets import Group, plan_prefill
from .generate import check_prompts
from .model import LoadedModel


@dataclass(frozen=True)
class Score:
    """How likely a text is: `logprobs[i]` is that of token i + 1 given tokens 0 to i.

    `loss` is the mean of the negative log-probabilities, in nats per token.
    """

    logprobs: list[float]
    loss: float


def score(model: LoadedModel, texts: Sequence[Sequence[int]]) -> list[Score]:
    """Scores of texts given as token ids, in their order.

    Raises UsageError before anything runs when a text does not fit the model or has only one
    token, so that there is nothing to predict.
    """
    return run_score(model, texts, plan_score(model, texts))


def plan_score(model: LoadedModel, texts: Sequence[Sequence[int]]) -> list[Group]:
    """The groups that serve the texts; raises UsageError when the model cannot serve them."""
    check_prompts(model, texts)
    for number, text in enumerate(texts, 1):
        if len(text) < 2:
            raise UsageError(f"prompt {number} has one token: a score needs at least 2")
    shapes, lengths = model.grid.scoring(), [len(text) for text in texts]
    model.grid.require_fit(shapes, "score", lengths, new_tokens=0)
    return model.grid.groups(shapes, len(texts), max(lengths))


def score_buckets(
    model: LoadedModel, texts: Sequence[Sequence[int]], groups: Sequence[Group]
) -> set[Bucket]:
    """The programs that serving the groups takes: what to compile ahead."""
    return {
        Bucket(ProgramName.SCORE, group.shape.batch, size, group.shape.cache)
        for group in groups
        for size in _chunks(model, texts, group)
    }


def run_score(
    model: LoadedModel, texts: Sequence[Sequence[int]], groups: Sequence[Group]
) -> list[Score]:
    """Scores of texts that `plan_score` has put into groups."""
    return [result for group in groups for result in _score_group(model, texts, group)]


def _chunks(model: LoadedModel, texts: Sequence[Sequence[int]], group: Group) -> list[int]:
    longest = max(len(text) for text in texts[group.first : group.first + group.count])
    return plan_prefill(longest, model.grid.tokens(ProgramName.SCORE, group.shape))


def _score_group(model: LoadedModel, texts: Sequence[Sequence[int]], group: Group) -> list[Score]:
    chunks, (batch, length) = _chunks(model, texts, group), (group.shape.batch, group.shape.cache)
    width = sum(chunks)
    tokens = np.zeros((batch, width), np.int32)
    labels = np.full((batch, width), IGNORED_LABEL, np.int32)
    lengths = np.zeros(batch, np.int32)
    for row, text in enumerate(texts[group.first : group.first + group.count]):
        lengths[row] = len(text)
        tokens[row, : len(text)] = text
        labels[row, : len(text) - 1] = text[1:]
    cache, parts, start = model.new_cache(group.shape), [], 0
    for size in chunks:
        program = model.program(Bucket(ProgramName.SCORE, batch, size, length))
        here = slice(start, start + size)
        inputs = (
            tokens[:, here],
            np.full(batch, start, np.int32),
            np.clip(lengths - start, 0, size).astype(np.int32),
            labels[:, here],
        )
        outputs, cache = program(inputs, cache)
        parts.append(outputs[0])
        start += size
    table = np.concatenate([np.asarray(part) for part in parts], axis=1)  # [B,T]
    return [_result(table[row, : lengths[row] - 1]) for row in range(group.count)]


def _result(logprobs: np.ndarray) -> Score:
    wide = logprobs.astype(np.float64)
    return Score([float(value) for value in wide], float(-wide.mean()))
