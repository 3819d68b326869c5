"""Requests to a served bundle: tokens go there and come back, text is made here."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from ...artifacts.bundle import Bundle
from ...artifacts.convention import SAMPLING, STOP_TOKENS
from ...artifacts.errors import UsageError
from ...artifacts.manifest import Bucket, ProgramName, Signature
from ...artifacts.serving.signatures import SignatureName, saved_model_programs
from ..images.encode import has_images
from ..loading.buckets import split_rows
from ..loading.bundle import open_tokenizer
from ..requests.request import (
    STREAM_TOKENS,
    Completion,
    Request,
    Timing,
    check_prompts,
    check_request,
    stop_tokens_of,
)
from ..requests.sampling import check_sampling_taken, sampling_arrays
from ..requests.score import Score
from ..text.stream import TextStream
from .answers import Answer, Values
from .client import Client

OnText = Callable[[int, str], None]
Pieces = Generator[list[int], None, None]


@dataclass(frozen=True)
class RemoteModel:
    """The SavedModel of a bundle, served somewhere."""

    bundle: Bundle
    client: Client

    def __post_init__(self) -> None:
        """Raises UsageError for a bundle without a SavedModel."""
        if self.bundle.manifest.saved_model is None:
            raise UsageError(
                f"--server: {self.bundle.root} has no SavedModel to be served; export it again "
                "with --format savedmodel"
            )

    def signature(self, name: str) -> Signature:
        """A signature of the SavedModel.

        Raises:
            UsageError: it has none of that name.
        """
        record = self.bundle.manifest.saved_model
        assert record is not None
        found = {signature.name: signature for signature in record.signatures}
        if name not in found:
            raise UsageError(
                f"--server: the SavedModel of {self.bundle.root} cannot {name}; it has "
                f"{', '.join(sorted(found))}"
            )
        return found[name]

    def call(self, name: str, inputs: Values) -> dict[str, np.ndarray]:
        """One call of a signature: its outputs, of the dtypes and ranks that it promises."""
        return self.client.predict(self.signature(name), inputs)

    def ask(self, name: str, inputs: Values) -> Answer:
        """One call of a signature, for what its answer has to be held against."""
        return Answer(self.client.target, name, self.call(name, inputs))

    @property
    def vocab_size(self) -> int:
        """Number of token ids."""
        return self.bundle.manifest.model.vocab_size

    @property
    def sampling_inputs(self) -> frozenset[str]:
        """The sampling parameters that the signatures take."""
        taken = {array.name for array in self.signature(SignatureName.GENERATE).inputs}
        return frozenset(each.name for each in SAMPLING if each.name in taken)

    @property
    def slots(self) -> int:
        """Texts whose caches the server keeps."""
        record = self.bundle.manifest.saved_model
        return record.slots if record is not None else 0

    def most_rows(self, program: ProgramName) -> int:
        """Rows of one call.

        Raises:
            UsageError: the bundle has no such program that could be served.
        """
        return max(b.batch for b in self._buckets(program))

    def most_new_tokens(self, prompts: Sequence[Sequence[int]]) -> int:
        """How many tokens can follow the longest prompt; 0 or less when it does not fit."""
        self.signature(SignatureName.GENERATE)
        longest = max(b.cache for b in self._buckets(ProgramName.GENERATE))
        return longest - max(map(len, prompts))

    def _buckets(self, program: ProgramName) -> list[Bucket]:
        programs = saved_model_programs(self.bundle.manifest)
        found = [p.bucket for p in programs if p.bucket.program is program]
        if not found:
            raise UsageError(
                f"--server: {self.bundle.root} has no {program} program of one device to be "
                "served; export it again with --format savedmodel"
            )
        return found


def run_remote(
    model: RemoteModel, request: Request, on_text: OnText | None = None
) -> Iterator[Completion]:
    """Completions of a request, in order.

    Whole rows come from one call where nobody reads along and no text may stop them; otherwise
    each prompt is continued by few tokens a call: in a slot where the server has them, else by
    sending all that is known so far again.
    """
    if request.logprobs:
        raise UsageError("--logprobs: a served model gives tokens only; leave out --server")
    check_request(model, request)
    source = f"the SavedModel of {model.bundle.root}"
    check_sampling_taken(request.samplings, model.sampling_inputs, source)
    if has_images(request.images) or (on_text is None and not request.stop_texts):
        yield from _whole(model, request, on_text)
        return
    for number in range(len(request.prompts)):
        yield _streamed(model, request, number, on_text)


class _Text:
    """The tokens of one row so far, and the text they make."""

    def __init__(self, model: RemoteModel, request: Request) -> None:
        manifest = model.bundle.manifest
        has_text = manifest.tokenizer is not None
        self._stream = None
        if has_text:
            decoder = open_tokenizer(model.bundle).decoder(request.shows_special)
            self._stream = TextStream(decoder, request.stop_texts)
        self._stop = frozenset(stop_tokens_of(request, model.bundle))
        self.tokens: list[int] = []
        self.stopped = False

    def push(self, tokens: Sequence[int]) -> str:
        """Add tokens up to the one that ends the text; what to show."""
        shown = ""
        for token in tokens:
            if self.stopped:
                break
            self.tokens.append(token)
            if token in self._stop:
                self.stopped = True
            elif self._stream is not None:
                shown += self._stream.push(token)
                self.stopped = self._stream.stopped
        return shown

    def completion(self, timing: Timing) -> Completion:
        """What was made, once no token follows."""
        text = self._stream.text if self._stream is not None else ""
        reason = "stop" if self.stopped else "length"
        return Completion(self.tokens, text, reason, None, timing)

    def close(self) -> str:
        """The last text to show."""
        return self._stream.close() if self._stream is not None else ""


def _whole(model: RemoteModel, request: Request, on_text: OnText | None) -> Iterator[Completion]:
    seeing = has_images(request.images)
    name = SignatureName.GENERATE_IMAGES if seeing else SignatureName.GENERATE
    model.signature(name)
    first = 0
    for count, _ in split_rows(len(request.prompts), [model.most_rows(ProgramName.GENERATE)]):
        prompts = request.prompts[first : first + count]
        part = request.of(first, count)
        inputs = _generate_inputs(model, part, prompts, request.max_new_tokens)
        if seeing:
            inputs["pixels"] = np.concatenate(list(request.images[first : first + count]))
        started = time.monotonic()
        answer = model.ask(name, inputs)
        ended = time.monotonic()
        rows = _new_tokens(model, answer, inputs)
        made = sum(map(len, rows))
        # One call tells nothing of its parts: all of its time stands under decode.
        timing = Timing(sum(map(len, prompts)), 0.0, made, ended - started, ended)
        for row, tokens in enumerate(rows):
            text = _Text(model, request)
            shown = text.push(tokens) + text.close()
            if on_text is not None:
                on_text(first + row, shown)
            yield text.completion(timing)
        first += count


def _streamed(
    model: RemoteModel, request: Request, number: int, on_text: OnText | None
) -> Completion:
    request = request.of(number, 1)
    prompt, text = request.prompts[0], _Text(model, request)
    pieces = _slot_pieces if model.slots else _repeated_pieces
    started, first_at = time.monotonic(), 0.0

    def show(new: str) -> None:
        if new and on_text is not None:
            on_text(number, new)

    with contextlib.closing(pieces(model, request, prompt)) as source:  # gives a slot back
        for tokens in source:
            first_at = first_at or time.monotonic()
            show(text.push(tokens))
            if text.stopped:
                break
    show(text.close())
    ended = time.monotonic()
    made = len(text.tokens)
    return text.completion(
        Timing(len(prompt), first_at - started, made - 1, ended - first_at, first_at)
    )


def _slot_pieces(model: RemoteModel, request: Request, prompt: Sequence[int]) -> Pieces:
    """New tokens of a text whose cache stays in the server."""
    sampling, most = _sampling(model, request, 1), np.iinfo(np.int64)
    given = model.ask(
        SignatureName.PREFILL_SLOT,
        {"slot": np.array([-1], np.int32), **_texts([prompt]), **sampling},
    )
    mine = {
        "slot": np.array([given.number("slot", 0, model.slots - 1)], np.int32),
        "owner": np.array([given.number("owner", most.min, most.max)], np.int64),
    }
    with _released(model, mine):
        yield [given.number("token", 0, model.vocab_size - 1)]
        left = request.max_new_tokens - 1
        while left > 0:
            inputs = {
                **mine, **sampling, "stop_tokens": _stop_rows(model, request, 1),
                "max_new_tokens": np.array([min(left, STREAM_TOKENS)], np.int32),
            }  # fmt: skip
            (tokens,) = _new_tokens(model, model.ask(SignatureName.DECODE_SLOT, inputs), inputs)
            yield tokens
            left -= len(tokens)


@contextlib.contextmanager
def _released(model: RemoteModel, slot: Values) -> Iterator[None]:
    """Give a slot back in the end, whatever ends it."""
    try:
        yield
    except UsageError:
        with contextlib.suppress(UsageError):  # what went wrong first is what is told
            model.call(SignatureName.RELEASE_SLOT, slot)
        raise
    except GeneratorExit:  # the text is long enough
        model.call(SignatureName.RELEASE_SLOT, slot)
        raise
    model.call(SignatureName.RELEASE_SLOT, slot)


def _repeated_pieces(model: RemoteModel, request: Request, prompt: Sequence[int]) -> Pieces:
    """New tokens of a text that is sent again with what has come of it."""
    known, left = list(prompt), request.max_new_tokens
    while left > 0:
        inputs = _generate_inputs(model, request, [known], min(left, STREAM_TOKENS))
        (tokens,) = _new_tokens(model, model.ask(SignatureName.GENERATE, inputs), inputs)
        yield tokens
        known += tokens
        left -= len(tokens)


def _new_tokens(model: RemoteModel, answer: Answer, inputs: Values) -> list[list[int]]:
    """The tokens of an answer to a call that makes tokens: at least one a row."""
    limits = inputs["max_new_tokens"].tolist()
    return answer.new_tokens(limits, inputs["stop_tokens"][0].tolist(), model.vocab_size)


def _generate_inputs(
    model: RemoteModel, request: Request, prompts: Sequence[Sequence[int]], new_tokens: int
) -> dict[str, np.ndarray]:
    rows = len(prompts)
    return {
        **_texts(prompts), **_sampling(model, request, rows),
        "max_new_tokens": np.full(rows, new_tokens, np.int32),
        "stop_tokens": _stop_rows(model, request, rows),
    }  # fmt: skip


def _texts(texts: Sequence[Sequence[int]]) -> dict[str, np.ndarray]:
    lengths = np.array([len(text) for text in texts], np.int32)
    tokens = np.zeros((len(texts), max(lengths)), np.int32)
    for row, text in enumerate(texts):
        tokens[row, : len(text)] = text
    return {"tokens": tokens, "lengths": lengths}


def _sampling(model: RemoteModel, request: Request, rows: int) -> dict[str, np.ndarray]:
    values = sampling_arrays(request.samplings, rows)
    return {  # as the signatures take them
        name: value.astype(np.int64) if value.dtype == np.uint32 else value
        for name, value in values.items()
        if name in model.sampling_inputs
    }


def _stop_rows(model: RemoteModel, request: Request, rows: int) -> np.ndarray:
    """The stop tokens the server looks for; the others are found here, when they have come."""
    known = list(stop_tokens_of(request, model.bundle))[:STOP_TOKENS] or [-1]
    return np.tile(np.array(known, np.int32), (rows, 1))


def score_remote(model: RemoteModel, texts: Sequence[Sequence[int]]) -> list[Score]:
    """Scores of texts given as token ids."""
    check_prompts(model, texts)
    found = []
    for rows in _groups(model, ProgramName.SCORE, SignatureName.SCORE, texts):
        inputs = _texts(rows)
        answer = model.ask(SignatureName.SCORE, inputs)
        logprobs = answer.rows("logprobs", len(rows), inputs["tokens"].shape[1])
        losses = answer.rows("loss", len(rows))
        for text, row, loss in zip(rows, logprobs.tolist(), losses.tolist(), strict=True):
            found.append(Score(row[: len(text) - 1], loss))
    return found


def classify_remote(model: RemoteModel, texts: Sequence[Sequence[int]]) -> list[list[float]]:
    """Class scores of texts given as token ids."""
    return _numbers(model, ProgramName.CLASSIFY, SignatureName.CLASSIFY, "scores", texts)


def embed_remote(model: RemoteModel, texts: Sequence[Sequence[int]]) -> list[list[float]]:
    """Vectors of texts given as token ids."""
    return _numbers(model, ProgramName.EMBED, SignatureName.EMBED, "embedding", texts)


def _numbers(
    model: RemoteModel, program: ProgramName, name: str, output: str,
    texts: Sequence[Sequence[int]],
) -> list[list[float]]:  # fmt: skip
    """What `output` of a signature has for each text."""
    check_prompts(model, texts)
    found = []
    for rows in _groups(model, program, name, texts):
        found += model.ask(name, _texts(rows)).rows(output, len(rows)).tolist()
    return found


def _groups(
    model: RemoteModel, program: ProgramName, name: str, texts: Sequence[Sequence[int]]
) -> Iterator[Sequence[Sequence[int]]]:
    """The texts by as many as one call takes."""
    model.signature(name)
    size = model.most_rows(program)
    for first in range(0, len(texts), size):
        yield texts[first : first + size]
