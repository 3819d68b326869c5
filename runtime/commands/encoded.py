"""The prompts of a command line as token ids."""

from __future__ import annotations

from ...artifacts.bundle import Bundle
from ...artifacts.prompts import bundle_prompts
from ..api.prompts import Encoded, encode
from .options import Options, parse_ids


def read_encoded(options: Options, bundle: Bundle) -> Encoded:
    """Token ids of each prompt, the images of one, and the stop tokens that turns bring with them.

    Raises UsageError when one cannot be read or made, and ArtifactError without a tokenizer.
    """
    if options.tokens:
        ids = [parse_ids("--tokens", "2,17,18", text) for text in options.tokens]
        return encode(bundle, ids, options.image, options.pan_and_scan)
    before = bundle_prompts(bundle).text(options.task, str(bundle.root)) if options.embed else ""
    return encode(
        bundle, list(options.prompt), options.image, options.pan_and_scan, before,
        whole=options.classify or options.embed, chat=options.chat,
    )  # fmt: skip


def prints_text(options: Options) -> bool:
    """True when the output is for people: one prompt, and no JSON asked for."""
    single = len(options.prompt or options.tokens) == 1
    return single and not options.as_json and options.logprobs is None
