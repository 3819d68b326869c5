"""Prompts to completions: check everything, pick the buckets, run groups of rows."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

from ...artifacts.bundle import Bundle
from ...artifacts.errors import UsageError
from ...artifacts.manifest import Bucket, ProgramName
from ..images.encode import Images, check_images, has_images
from ..loading.buckets import Group, Shape, pick
from ..loading.bundle import open_tokenizer
from ..loading.model import LoadedModel
from ..text.stream import TextStream
from .chunks import PREFILL, call_buckets, plan_calls
from .sampling import SamplingParameters, TopTokens, check_new_tokens
from .session import Session, Step

# Tokens of one call of the device loop while somebody reads along or a stop text may end it.
STREAM_TOKENS = 8

OnText = Callable[[int, str], None]
"""Told of new text: index of the prompt, text that continues what came before."""


@dataclass(frozen=True)
class Request:
    """What to generate. `plan_request` says whether a model can.

    A row ends at `max_new_tokens`, at a token of `stop_token_ids`, at one of the model's own end
    tokens unless `ignore_eos`, or when its text contains one of `stop_texts`. `logprobs` is the
    number of likeliest tokens to report with each token, 0 for none.
    """

    prompts: Sequence[Sequence[int]]
    max_new_tokens: int
    sampling: SamplingParameters | Sequence[SamplingParameters] = field(
        default_factory=SamplingParameters
    )
    """Of every prompt, or one for each."""
    stop_token_ids: Sequence[int] = ()
    stop_texts: Sequence[str] = ()
    ignore_eos: bool = False
    logprobs: int = 0
    images: Images = ()
    """For each prompt the pixels of its images [n,3,size,size] float32; empty for none at all."""
    shows_special: bool = False
    """Whether texts show control tokens."""

    @property
    def samplings(self) -> list[SamplingParameters]:
        """The sampling of each prompt."""
        if isinstance(self.sampling, SamplingParameters):
            return [self.sampling] * len(self.prompts)
        return list(self.sampling)

    def of(self, first: int, count: int) -> Request:
        """The part of the request that is of some prompts."""
        rows = slice(first, first + count)
        return replace(
            self, prompts=self.prompts[rows], sampling=self.samplings[rows],
            images=self.images[rows],
        )  # fmt: skip


@dataclass(frozen=True)
class Timing:
    """Work of the group of rows a completion was generated with, in tokens and seconds.

    `first_token_at` is a reading of `time.monotonic`.
    """

    prefill_tokens: int
    prefill_s: float
    decode_tokens: int
    decode_s: float
    first_token_at: float


@dataclass(frozen=True)
class Completion:
    """What was generated for one prompt.

    `tokens` include the stop token, or all of those whose text completed a stop text; `text` has
    neither. `finish_reason` is `stop` or `length`. `logprobs[i]` are the likeliest tokens where
    `tokens[i]` was drawn, None when not asked for.
    """

    tokens: list[int]
    text: str
    finish_reason: str
    logprobs: list[TopTokens] | None
    timing: Timing


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


class Vocabulary(Protocol):
    """A model, loaded here or served elsewhere, as far as ids of tokens need it."""

    @property
    def bundle(self) -> Bundle:
        """Where it is from."""
        ...

    @property
    def vocab_size(self) -> int:
        """Number of token ids."""
        ...


def check_request(model: Vocabulary, request: Request) -> None:
    """Raise UsageError for what no model can be asked for, whatever its buckets."""
    check_prompts(model, request.prompts)
    if len(request.samplings) != len(request.prompts):
        raise UsageError(
            f"sampling: expected one for each of the {len(request.prompts)} prompts, got "
            f"{len(request.samplings)}"
        )
    for token in request.stop_token_ids:
        _check_token(model, token, "stop token")
    check_new_tokens(request.max_new_tokens)
    if "" in request.stop_texts:
        raise UsageError("stop text is empty: expected at least one character")


def check_prompts(model: Vocabulary, prompts: Sequence[Sequence[int]]) -> None:
    """Raise UsageError for no prompt, an empty one, or a token id that the model does not have."""
    if not prompts:
        raise UsageError("no prompt: pass at least one")
    for number, prompt in enumerate(prompts, 1):
        if not prompt:
            raise UsageError(f"prompt {number} is empty: it needs at least one token, such as bos")
        for at, token in enumerate(prompt):
            _check_token(model, token, f"token {at + 1} of prompt {number}")


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
    if "" in request.stop_texts:
        raise UsageError("stop text is empty: expected at least one character")
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


def stop_tokens_of(request: Request, bundle: Bundle) -> tuple[int, ...]:
    """The tokens that end a row: the model's own, those asked for and those of stop texts.

    Raises:
        ArtifactError: there are stop texts, and the bundle has no tokenizer.
        UsageError: a stop text can never be found; see `Tokenizer.stop_token`.
    """
    eos = () if request.ignore_eos else bundle.manifest.model.eos_token_ids
    tokens = [*eos, *request.stop_token_ids]
    if request.stop_texts:
        tokenizer = open_tokenizer(bundle)
        text_tokens = [
            tokenizer.stop_token(text, request.shows_special) for text in request.stop_texts
        ]
        tokens += [token for token in text_tokens if token is not None]
    return tuple(dict.fromkeys(tokens))


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


def _check_token(model: Vocabulary, token: int, name: str) -> None:
    if not 0 <= token < model.vocab_size:
        raise UsageError(
            f"{name} is {token}: expected an id from 0 to {model.vocab_size - 1} "
            f"(vocabulary of {model.bundle.root})"
        )
