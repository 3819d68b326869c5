"""What is asked of a model that generates, checked: for callers, commands and served models."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from ...artifacts.errors import UsageError, argument
from ..requests.request import Request
from ..requests.sampling import DEFAULT_NEW_TOKENS, SamplingParameters
from .prompts import Encoded

Sampling = SamplingParameters | Sequence[SamplingParameters]
_GREEDY = SamplingParameters()


def make_sampling(
    temperature: float | None = None, top_k: int | None = None, top_p: float | None = None,
    min_p: float | None = None, seed: int | None = None,
) -> SamplingParameters:  # fmt: skip
    """How tokens are drawn; what is None has its default, which is greedy.

    Raises:
        UsageError: a value is out of range, or says how to draw where nothing is drawn.
    """
    values = {
        "temperature": temperature, "top_k": top_k, "top_p": top_p, "min_p": min_p, "seed": seed,
    }  # fmt: skip
    given = {name: value for name, value in values.items() if value is not None}
    sampling = SamplingParameters(**given)  # pyright: ignore[reportArgumentType]
    for name in ("top_k", "top_p", "min_p"):
        if getattr(sampling, name) != getattr(_GREEDY, name) and not sampling.temperature:
            raise UsageError(
                f"{argument(name)} needs {argument('temperature')} above 0: at 0, the default, the "
                f"likeliest token is always taken; pass {argument('temperature=1', _WARM)}"
            )
    return sampling


_WARM = "--temperature 1"


def make_request(
    encoded: Encoded, sampling: Sampling, fits: Callable[[], int], *,
    max_new_tokens: int | None = None, stop: Sequence[str] = (), stop_tokens: Sequence[int] = (),
    ignore_eos: bool = False, special: bool = False, logprobs: int = 0,
) -> Request:  # fmt: skip
    """The request of prompts.

    `fits` gives how many tokens can follow the longest of them; without `max_new_tokens` as many
    are made, up to DEFAULT_NEW_TOKENS.
    """
    if max_new_tokens is None:  # where 1 does not fit, a refusal says so
        max_new_tokens = max(1, min(DEFAULT_NEW_TOKENS, fits()))
    ends = () if ignore_eos else encoded.stop_tokens
    return Request(
        encoded.prompts, max_new_tokens, sampling, (*ends, *stop_tokens), stop, ignore_eos,
        logprobs, encoded.images, special,
    )  # fmt: skip
