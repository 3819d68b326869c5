"""Log-probabilities of given texts, through the `score` program."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from ...artifacts.convention import ATTENTIONS, HIDDEN_STATES, IGNORED_LABEL
from ...artifacts.errors import UsageError
from ...artifacts.manifest import Bucket, ProgramName
from ..images.encode import Images, check_images, encode_prompts, has_images
from ..loading.buckets import Group
from .chunks import SCORE, call_buckets, chunk_inputs, plan_calls
from .request import check_prompts

if TYPE_CHECKING:
    from ..loading.model import LoadedModel

Texts = Sequence[Sequence[int]]


@dataclass(frozen=True)
class Score:
    """How likely a text is: `logprobs[i]` is that of its label i + 1 given tokens 0 to i.

    Labels are the tokens themselves unless others were given; None where a label is ignored.
    `loss` is the mean of the negative log-probabilities, in nats per label.
    """

    logprobs: list[float | None]
    loss: float
    hidden_states: np.ndarray | None = None
    """[L+1,T,D] float32: the embeddings, what each layer but the last gives, and the last one's
    after the final norm. None unless asked for."""
    attentions: np.ndarray | None = None
    """[L,N,T,T] float32: what the token of a row gives to the token of a column. None unless
    asked for."""


@dataclass(frozen=True)
class ScoreRequest:
    """What to score. `plan_score` says whether a model can.

    `labels` has for each text a label for each token, as transformers take them: label i + 1 is
    what should follow token i, the first is not looked at, -100 is ignored. Empty: the texts
    themselves. `images` is as in generate.Request. `outputs` are names of convention.SCORE_OUTPUTS.
    """

    texts: Texts
    labels: Texts = ()
    images: Images = ()
    outputs: Sequence[str] = ()

    def of(self, group: Group) -> ScoreRequest:
        """The part of the request that is a group's."""
        rows = slice(group.first, group.first + group.count)
        return ScoreRequest(self.texts[rows], self.labels[rows], self.images[rows], self.outputs)


def score(
    model: LoadedModel, texts: Texts, labels: Texts = (), images: Images = (),
    outputs: Sequence[str] = (),
) -> list[Score]:  # fmt: skip
    """Scores of texts given as token ids, in their order; see ScoreRequest.

    Raises UsageError before anything runs when a text does not fit the model, has nothing to
    predict, or when the bundle was not exported with `outputs`.
    """
    request = ScoreRequest(texts, labels, images, outputs)
    return run_score(model, request, plan_score(model, request))


def plan_score(model: LoadedModel, request: ScoreRequest) -> list[Group]:
    """The groups that serve the request; raises UsageError when the model cannot serve it."""
    texts = request.texts
    check_prompts(model, texts)
    for number, text in enumerate(texts, 1):
        if len(text) < 2:
            raise UsageError(f"prompt {number} has one token: a score needs at least 2")
    _check_labels(model, request)
    _check_outputs(model, request)
    check_images(model, texts, request.images)
    shapes, task = model.grid.scoring(), "score"
    if has_images(request.images):
        shapes, task = shapes & model.grid.shapes(ProgramName.SCORE_IMAGES), "score images"
    lengths = [len(text) for text in texts]
    model.grid.require_fit(shapes, task, lengths, new_tokens=0)
    groups = model.grid.groups(shapes, len(texts), max(lengths))
    for group in groups:
        part = request.of(group)
        plan_calls(model, group.shape, part.texts, part.images, SCORE)  # refuses what is too long
    return groups


def _check_labels(model: LoadedModel, request: ScoreRequest) -> None:
    if not request.labels:
        return
    if len(request.labels) != len(request.texts):
        raise UsageError(
            f"labels: expected some for each of the {len(request.texts)} prompts, "
            f"got {len(request.labels)}"
        )
    for number, (text, labels) in enumerate(zip(request.texts, request.labels, strict=True), 1):
        if len(labels) != len(text):
            raise UsageError(
                f"labels of prompt {number}: expected one for each of its {len(text)} tokens, "
                f"got {len(labels)}"
            )
        for label in labels:
            if label != IGNORED_LABEL and not 0 <= label < model.vocab_size:
                raise UsageError(
                    f"labels of prompt {number}: expected ids from 0 to {model.vocab_size - 1} or "
                    f"{IGNORED_LABEL} for none, got {label}"
                )
        if all(label == IGNORED_LABEL for label in labels[1:]):
            raise UsageError(
                f"labels of prompt {number} are all {IGNORED_LABEL} after the first: there is "
                "nothing to predict; pass the id of a token where one is to be scored"
            )


def _check_outputs(model: LoadedModel, request: ScoreRequest) -> None:
    available = model.bundle.manifest.score_outputs
    for name in request.outputs:
        if name not in available:
            raise UsageError(
                f"{name}: {model.grid.source} has a score program that gives "
                f"{', '.join(('logprobs', *available))}; re-export with --outputs {name}"
            )


def score_buckets(
    model: LoadedModel, request: ScoreRequest, groups: Sequence[Group]
) -> set[Bucket]:
    """The programs that serving the groups takes: what to compile ahead."""
    buckets: set[Bucket] = set()
    for group in groups:
        part = request.of(group)
        buckets |= call_buckets(model, group.shape, part.texts, part.images, SCORE)
    return buckets


def run_score(model: LoadedModel, request: ScoreRequest, groups: Sequence[Group]) -> list[Score]:
    """Scores of texts that `plan_score` has put into groups."""
    return [result for group in groups for result in _score_group(model, request.of(group), group)]


def _score_group(model: LoadedModel, request: ScoreRequest, group: Group) -> list[Score]:
    texts, (batch, length) = request.texts, (group.shape.batch, group.shape.cache)
    soft = None
    if has_images(request.images):
        soft = encode_prompts(model, texts, request.images)
    rows = [_Row(text, labels) for text, labels in zip(texts, request.labels or texts, strict=True)]
    cache = model.new_cache(group.shape)
    for call in plan_calls(model, group.shape, texts, request.images, SCORE):
        labels = np.full((batch, call.size), IGNORED_LABEL, np.int32)
        for row, (start, count) in enumerate(call.rows):
            labels[row, :count] = rows[row].next_labels[start : start + count]
        program = model.program(Bucket(call.program, batch, call.size, length))
        inputs = {**chunk_inputs(call, texts, batch, soft), "labels": labels}
        outputs, cache = program(inputs, cache)
        names = [tensor.name for tensor in program.record.outputs]
        extras = {
            name: np.asarray(output)
            for name, output in zip(names, outputs, strict=True)
            if name in request.outputs
        }
        table = np.asarray(outputs[0])
        for row, (_, count) in enumerate(call.rows):
            rows[row].take(row, count, table, extras)
    return [row.score() for row in rows]


class _Row:
    """What is known of one text so far."""

    def __init__(self, text: Sequence[int], labels: Sequence[int]) -> None:
        self.length = len(text)
        # The label at a place is the token after it; nothing follows the last.
        self.next_labels = [*labels[1:], IGNORED_LABEL]
        self._logprobs: list[np.ndarray] = []
        self._extras: dict[str, list[np.ndarray]] = {HIDDEN_STATES: [], ATTENTIONS: []}

    def take(
        self, row: int, count: int, logprobs: np.ndarray, extras: dict[str, np.ndarray]
    ) -> None:
        """Add the first `count` places of the row to what is known."""
        self._logprobs.append(logprobs[row, :count].astype(np.float64))
        for name, array in extras.items():
            # A copy: a view would keep the arrays of the whole batch and cache.
            values = array[:, row, :count] if name == HIDDEN_STATES else array[
                :, row, :, :count, : self.length
            ]  # fmt: skip
            self._extras[name].append(values.copy())

    def score(self) -> Score:
        is_scored = np.asarray(self.next_labels[:-1]) != IGNORED_LABEL
        logprobs = np.concatenate(self._logprobs)[:-1]
        hidden, attentions = (self._extras[name] for name in (HIDDEN_STATES, ATTENTIONS))
        return Score(
            [float(x) if scored else None for x, scored in zip(logprobs, is_scored, strict=True)],
            float(-logprobs[is_scored].mean()),
            np.concatenate(hidden, axis=1) if hidden else None,
            np.concatenate(attentions, axis=2) if attentions else None,
        )
