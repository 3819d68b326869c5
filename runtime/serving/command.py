"""`gemma3-run --server`: the same flags and output, with the programs run by a server."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from ...artifacts.bundle import Bundle
from ...artifacts.errors import UsageError
from ..generate import Request
from ..report import (
    classify_json,
    classify_lines,
    completion_json,
    embed_json,
    embed_line,
    print_stats,
    score_json,
    score_lines,
)
from ..sampling import SamplingParameters
from ..tokenizer import Tokenizer
from .client import connect, parse_address
from .remote import RemoteModel, classify_remote, embed_remote, run_remote, score_remote

if TYPE_CHECKING:
    from ..cli import Options

Prompts = Sequence[Sequence[int]]


def check_flags(options: Options) -> None:
    """Refuse what a served model has no say in; the address is looked at as well.

    Raises:
        UsageError: names the flag.
    """
    assert options.server is not None
    parse_address(options.server)
    for flag, given in (
        ("--mesh", options.mesh is not None),
        ("--platform", options.platform is not None),
    ):
        if given:
            raise UsageError(
                f"{flag} and --server exclude each other: a served SavedModel is of one device, "
                "the server's"
            )
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
        prompts, new_tokens, sampling, stop_tokens, options.stop, options.ignore_eos, 0, images
    )

    def show(_: int, new: str) -> None:
        print(new, end="", flush=True)

    completions = []
    for completion in run_remote(model, request, show if text else None):
        completions.append(completion)
        print("" if text else json.dumps(completion_json(completion, loaded_at)), flush=True)
    if options.stats:
        print_stats(completions, loaded_at)


def print_scores(
    model: RemoteModel, texts: Prompts, tokenizer: Tokenizer | None, text: bool
) -> None:
    """Score and print: a table for the one text, or a JSON object for each."""
    scores = score_remote(model, texts)
    if text:
        print("\n".join(score_lines(texts[0], scores[0], tokenizer)))
    else:
        print("\n".join(json.dumps(score_json(score)) for score in scores))


def print_classes(model: RemoteModel, texts: Prompts, text: bool) -> None:
    """Classify and print."""
    results = classify_remote(model, texts)
    if text:
        print("\n".join(classify_lines(model.bundle.manifest.model.labels, results[0])))
    else:
        print("\n".join(json.dumps(classify_json(scores)) for scores in results))


def print_vectors(model: RemoteModel, texts: Prompts, text: bool) -> None:
    """Embed and print."""
    vectors = embed_remote(model, texts)
    if text:
        print(embed_line(vectors[0]))
    else:
        print("\n".join(json.dumps(embed_json(vector)) for vector in vectors))
