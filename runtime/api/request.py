"""What is asked of a model that generates, checked: for callers, commands and served models."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from ...artifacts.convention import SAMPLING
from ...artifacts.errors import UsageError, argument
from ..requests.request import Request
from ..requests.sampling import DEFAULT_NEW_TOKENS, SamplingParameters
from .prompts import Encoded

Sampling = SamplingParameters | Sequence[SamplingParameters]
_NAMES = frozenset(each.name for each in SAMPLING)


def make_sampling(**values: float | None) -> SamplingParameters:
    """How tokens are drawn; what is None has its default, which is greedy.

    Raises:
        TypeError: there is no such parameter.
        UsageError: a value is out of range, or says how to draw where nothing is drawn.
    """
    for name in values:
        if name not in _NAMES:
            raise TypeError(f"unexpected keyword argument {name!r}")
    given = {name: value for name, value in values.items() if value is not None}
    sampling = SamplingParameters(**given)  # pyright: ignore[reportArgumentType]
    for each in SAMPLING:
        asked = getattr(sampling, each.name) != each.neutral
        if asked and not each.alone and not sampling.temperature:
            raise UsageError(
                f"{argument(each.name)} needs {argument('temperature')} above 0: at 0, the "
                f"default, the likeliest token is always taken; pass "
                f"{argument('temperature=1', _WARM)}"
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
