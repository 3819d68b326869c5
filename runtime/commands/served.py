"""`gemma3-run --server`: the same flags and output, with the programs run by a server."""

from __future__ import annotations

import json
import time

from ...artifacts.bundle import Bundle
from ...artifacts.errors import UsageError
from ..api.prompts import Encoded
from ..api.request import make_request
from ..loading.bundle import open_tokenizer
from ..requests.sampling import SamplingParameters
from ..serving.client import connect, parse_address
from ..serving.remote import RemoteModel, classify_remote, embed_remote, run_remote, score_remote
from ..serving.security import Security, read_headers
from .encoded import read_encoded
from .options import Options
from .output import (
    client_stats,
    completion_json,
    print_classes,
    print_client_stats,
    print_scores,
    print_vectors,
)


def run(options: Options, bundle: Bundle, sampling: SamplingParameters, text: bool) -> None:
    """Do what the command line says with a server; `text` prints for people."""
    check_flags(options)
    assert options.server is not None
    address = parse_address(options.server)
    tls = {
        "--server-ca": options.server_ca, "--server-cert": options.server_cert,
    }  # fmt: skip
    for flag in [flag for flag, given in tls.items() if given and not address.is_encrypted]:
        raise UsageError(
            f"{flag} needs TLS: expected --server grpcs://HOST:PORT or https://HOST:PORT, got "
            f"{options.server}"
        )
    headers = read_headers(options.server_header, address.is_private)
    security = Security(options.server_ca, options.server_cert, options.server_key, headers)
    client = connect(address, security)
    encoded = read_encoded(options, bundle)
    model = RemoteModel(bundle, client)
    prompts = encoded.prompts
    if options.score:
        tokenizer = open_tokenizer(bundle) if bundle.manifest.tokenizer is not None else None
        print_scores(prompts, score_remote(model, prompts), tokenizer, text)
    elif options.classify:
        print_classes(bundle.manifest.model.labels, classify_remote(model, prompts), text)
    elif options.embed:
        print_vectors(embed_remote(model, prompts), text)
    else:
        if text:
            open_tokenizer(bundle)  # a bundle without one has no text to print
        _generate(options, model, encoded, sampling, text)


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


def _generate(
    options: Options, model: RemoteModel, encoded: Encoded, sampling: SamplingParameters, text: bool
) -> None:
    """Generate and print: text as it comes, or a JSON object for each prompt."""
    request = make_request(
        encoded, sampling, lambda: model.most_new_tokens(encoded.prompts),
        max_new_tokens=options.max_new_tokens, stop=options.stop, ignore_eos=options.ignore_eos,
        special=options.special,
    )  # fmt: skip

    def show(_: int, new: str) -> None:
        print(new, end="", flush=True)

    completions, asked_at = [], time.monotonic()
    for completion in run_remote(model, request, show if text else None):
        completions.append(completion)
        stats = client_stats([completion], asked_at)
        print("" if text else json.dumps(completion_json(completion, stats)), flush=True)
    if options.stats:
        print_client_stats(completions, asked_at)
