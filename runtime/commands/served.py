"""`gemma3-run --server`: the same flags and output, with the programs run by a server."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from ...artifacts.bundle import Bundle
from ...artifacts.errors import UsageError
from ..requests.generate import Request
from ..requests.sampling import SamplingParameters
from ..serving.client import connect, parse_address
from ..serving.remote import RemoteModel, run_remote
from .output import completion_json, print_stats

if TYPE_CHECKING:
    from .options import Options

Prompts = Sequence[Sequence[int]]


def check_flags(options: Options) -> None:
    """Refuse what a served model has no say in; the address is looked at as well.

    Raises:
        UsageError: names the flag.
    """
    assert options.server is not None
    parse_address(options.server)
    device = "a served SavedModel is of one device, the server's"
    scored = "a served model scores the texts themselves, with log-probabilities only"
    for flag, given, reason in (
        ("--mesh", options.mesh is not None, device),
        ("--platform", options.platform is not None, device),
        ("--no-cache", options.no_cache, "the server compiles the programs"),
        ("--labels", bool(options.labels), scored),
        ("--outputs-to", options.outputs_to is not None, scored),
        ("--image with --score", bool(options.image) and options.score, scored),
        ("--image with --classify", bool(options.image) and options.classify, "it takes text"),
    ):
        if given:
            raise UsageError(f"{flag} and --server exclude each other: {reason}")
    if options.logprobs is not None:
        raise UsageError(
            "--logprobs and --server exclude each other: a served model gives tokens only"
        )


def open_model(options: Options, bundle: Bundle) -> RemoteModel:
    """The model behind the address of the command line."""
    assert options.server is not None
    return RemoteModel(bundle, connect(parse_address(options.server)))


def print_generated(
    options: Options, model: RemoteModel, prompts: Prompts, sampling: SamplingParameters,
    stop_tokens: Sequence[int], images: Sequence[np.ndarray], default_new_tokens: int, text: bool,
) -> None:  # fmt: skip
    """Generate and print: text as it comes, or a JSON object for each prompt."""
    loaded_at = time.monotonic()
    new_tokens = options.max_new_tokens
    if new_tokens is None:  # where 1 does not fit, the server says so
        new_tokens = max(1, min(default_new_tokens, model.most_new_tokens(prompts)))
    request = Request(
        prompts,
        new_tokens,
        sampling,
        stop_tokens,
        options.stop,
        options.ignore_eos,
        0,
        images,
        options.special,
    )

    def show(_: int, new: str) -> None:
        print(new, end="", flush=True)

    completions = []
    for completion in run_remote(model, request, show if text else None):
        completions.append(completion)
        print("" if text else json.dumps(completion_json(completion, loaded_at)), flush=True)
    if options.stats:
        print_stats(completions, loaded_at)
