"""Prompts to completions: check everything, pick the buckets, run groups of rows."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence

from ...artifacts.errors import UsageError
from ...artifacts.manifest import Bucket, ProgramName
from ..images.encode import Images, check_images, has_images
from ..loading.buckets import Group, Shape, pick
from ..loading.model import LoadedModel
from ..text.stream import TextStream
from .chunks import PREFILL, call_buckets, plan_calls
from .request import (
    STREAM_TOKENS,
    Completion,
    OnText,
    Request,
    Timing,
    check_request,
    stop_tokens_of,
)
from .sampling import SamplingParameters, TopTokens, check_sampling_taken
from .session import Session, Step


def generate(
    model: LoadedModel,
    prompts: Sequence[Sequence[int]],
    sampling: SamplingParameters | Sequence[SamplingParameters],
    *,
    max_new_tokens: int,
    stop_token_ids: Sequence[int] = (),
    stop_texts: Sequence[str] = (),
    ignore_eos: bool = False,
    logprobs: int = 0,
    images: Images = (),
    on_text: OnText | None = None,
) -> list[Completion]:
    """Completions of the prompts (lists of token ids), in their order; see `Request`.

    Raises UsageError before anything runs when a prompt or value does not fit the model.
    """
    request = Request(
        prompts, max_new_tokens, sampling, stop_token_ids, stop_texts, ignore_eos, logprobs, images
    )
    return list(run_request(model, request, plan_request(model, request), on_text))


def most_new_tokens(
    model: LoadedModel, prompts: Sequence[Sequence[int]], logprobs: int, images: Images = ()
) -> int:
    """How many tokens can follow the longest prompt; 0 or less when it does not fit."""
    shapes, task = _usable_shapes(model, logprobs, images)
    return model.grid.longest(shapes, task) - max(map(len, prompts))


def plan_request(model: LoadedModel, request: Request) -> list[Group]:
    """The groups that serve a request; raises UsageError when the model cannot serve it."""
    check_request(model, request)
    if not 0 <= request.logprobs <= model.vocab_size:
        raise UsageError(
            f"logprobs: expected 0 to {model.vocab_size} (the vocabulary), got {request.logprobs}"
        )
    check_sampling_taken(request.samplings, model.sampling_inputs, model.grid.source)
    stop_tokens_of(request, model.bundle)  # refuses texts that nothing can be found for
    check_images(model, request.prompts, request.images)
    shapes, task = _usable_shapes(model, request.logprobs, request.images)
    lengths = [len(prompt) for prompt in request.prompts]
    model.grid.require_fit(shapes, task, lengths, request.max_new_tokens)
    groups = model.grid.groups(shapes, len(lengths), max(lengths) + request.max_new_tokens)
    for group in groups:
        prompts, images = _prompts_of(request, group), _images_of(request, group)
        plan_calls(model, group.shape, prompts, images, PREFILL)  # refuses what is too long
    return groups


def buckets_of(model: LoadedModel, request: Request, groups: Sequence[Group]) -> set[Bucket]:
    """The programs that serving the groups begins with: what to compile ahead."""
    buckets: set[Bucket] = set()
    for group in groups:
        batch, cache = group.shape.batch, group.shape.cache
        prompts, images = _prompts_of(request, group), _images_of(request, group)
        buckets |= call_buckets(model, group.shape, prompts, images, PREFILL)
        sizes = model.grid.tokens(ProgramName.GENERATE, group.shape)
        if request.max_new_tokens == 1:
            continue
        if request.logprobs or not sizes:
            buckets.add(Bucket(ProgramName.DECODE, batch, 1, cache))
        else:
            size = pick(request.max_new_tokens - 1, sizes)
            buckets.add(Bucket(ProgramName.GENERATE, batch, size, cache))
    return buckets


def run_request(
    model: LoadedModel, request: Request, groups: Sequence[Group], on_text: OnText | None = None
) -> Iterator[Completion]:
    """Completions of a request that `plan_request` has put into groups, as groups are done."""
    for group in groups:
        for part in _run_group(model, request, group, on_text is not None):
            if isinstance(part, Completion):
                yield part
            elif on_text is not None:
                on_text(*part)


def stream_request(
    model: LoadedModel, request: Request, groups: Sequence[Group]
) -> Iterator[tuple[int, str] | Completion]:
    """Pieces of text as they come, (index of the prompt, text), and completions of the groups."""
    for group in groups:
        yield from _run_group(model, request, group, streams=True)


class _Row:
    """What one prompt has got so far."""

    def __init__(self, model: LoadedModel, stop_tokens: frozenset[int], request: Request):
        self.stream = None
        if model.bundle.manifest.tokenizer is not None:
            decoder = model.tokenizer.decoder(request.shows_special)
            self.stream = TextStream(decoder, request.stop_texts)
        self.stop_tokens = stop_tokens
        self.tokens: list[int] = []
        self.logprobs: list[TopTokens] = []

    @property
    def has_stop_text(self) -> bool:
        return self.stream is not None and self.stream.stopped

    def take(self, tokens: list[int], logprobs: list[TopTokens]) -> str:
        """Add new tokens, up to the one that completes a stop text; the text to show."""
        shown = ""
        for index, token in enumerate(tokens):
            self.tokens.append(token)
            self.logprobs += logprobs[index : index + 1]
            if self.stream is not None and token not in self.stop_tokens:
                shown += self.stream.push(token)
            if self.has_stop_text:
                break
        return shown

    def close(self) -> str:
        """The last text to show, once no token follows."""
        return self.stream.close() if self.stream is not None else ""

    def completion(self, wants_logprobs: bool, timing: Timing) -> Completion:
        stopped = self.has_stop_text or self.tokens[-1] in self.stop_tokens
        return Completion(
            tokens=self.tokens,
            text=self.stream.text if self.stream is not None else "",
            finish_reason="stop" if stopped else "length",
            logprobs=self.logprobs if wants_logprobs else None,
            timing=timing,
        )


def _run_group(
    model: LoadedModel, request: Request, group: Group, streams: bool
) -> Iterator[tuple[int, str] | Completion]:
    """The pieces of text of a group's rows, in small steps if it `streams`; then completions."""
    prompts = _prompts_of(request, group)
    stop_tokens = stop_tokens_of(request, model.bundle)
    rows = [_Row(model, frozenset(stop_tokens), request) for _ in prompts]

    def take(step: Step) -> Iterator[tuple[int, str]]:
        for index, row in enumerate(rows):
            text = row.take(step.tokens[index], step.logprobs[index])
            if row.has_stop_text:
                session.finish(index)
            if text:
                yield group.first + index, text

    start = time.monotonic()
    sampling = request.samplings[group.first : group.first + group.count]
    session = Session(model, group.shape, sampling, stop_tokens, request.logprobs)
    first = session.prefill(prompts, request.max_new_tokens, _images_of(request, group))
    first_at = time.monotonic()
    yield from take(first)
    for step in session.generate(STREAM_TOKENS if streams or request.stop_texts else None):
        yield from take(step)
    for index, row in enumerate(rows):
        if text := row.close():
            yield group.first + index, text
    timing = Timing(
        prefill_tokens=sum(map(len, prompts)),
        prefill_s=first_at - start,
        decode_tokens=sum(len(row.tokens) - 1 for row in rows),
        decode_s=time.monotonic() - first_at,
        first_token_at=first_at,
    )
    for row in rows:
        yield row.completion(request.logprobs > 0, timing)


def _prompts_of(request: Request, group: Group) -> Sequence[Sequence[int]]:
    return request.prompts[group.first : group.first + group.count]


def _images_of(request: Request, group: Group) -> Images:
    return request.images[group.first : group.first + group.count]


def _usable_shapes(
    model: LoadedModel, logprobs: int, images: Images
) -> tuple[frozenset[Shape], str]:
    """Shapes a request can run in, and what to call that in a refusal."""
    shapes, task = model.grid.generating(), "generate"
    if logprobs:
        shapes, task = model.grid.stepping(), "generate with log-probabilities"
    if has_images(images):
        return shapes & model.grid.shapes(ProgramName.PREFILL_IMAGES), f"{task} from images"
    return shapes, task
