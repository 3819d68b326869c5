"""What is asked of a model that generates, and what comes of it; whatever runs it. Without JAX."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

from ...artifacts.bundle import Bundle
from ...artifacts.errors import UsageError
from ..images.encode import Images
from ..loading.bundle import open_tokenizer
from .sampling import SamplingParameters, TopTokens, check_new_tokens

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


def stop_tokens_of(request: Request, bundle: Bundle) -> tuple[int, ...]:
    """The tokens that end a row: the model's own, those asked for and those of stop texts.

    Raises:
        ArtifactError: there are stop texts, and the bundle has no tokenizer.
        UsageError: a stop text can never be found; see `Tokenizer.stop_token`.
    """
    own = () if request.ignore_eos else bundle.manifest.model.eos_token_ids
    tokens = [*own, *request.stop_token_ids]
    if request.stop_texts:
        tokenizer = open_tokenizer(bundle)
        found = [tokenizer.stop_token(text, request.shows_special) for text in request.stop_texts]
        tokens += [token for token in found if token is not None]
    return tuple(dict.fromkeys(tokens))


def _check_token(model: Vocabulary, token: int, what: str) -> None:
    if not 0 <= token < model.vocab_size:
        raise UsageError(
            f"{what} is {token}: expected an id from 0 to {model.vocab_size - 1} "
            f"(vocabulary of {model.bundle.root})"
        )
