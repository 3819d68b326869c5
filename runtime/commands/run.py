"""The command `gemma3-run`: text from a bundle."""

from __future__ import annotations

import json
import os
import time
from typing import TYPE_CHECKING, Any, NoReturn

import click

from ...artifacts.bundle import Bundle
from ...artifacts.errors import UsageError, run_command
from ...artifacts.examples import examples
from ...artifacts.prompts import bundle_prompts, refuse_chat
from ..images.files import Picture, load_images, pixels_of
from ..images.prompt import encode_prompt, image_tokens
from ..loading.bundle import open_tokenizer, read_tokenizer_ahead
from ..loading.start import (
    compile_ahead,
    import_jax,
    load_model,
    open_bundle,
)
from ..loading.status import StatusLine
from ..requests.sampling import DEFAULT_NEW_TOKENS, SamplingParameters
from ..text.tokenizer import END_OF_TURN
from .options import (
    HELP,
    Options,
    check_flags,
    parse_ids,
    run_options,
    sampling_of,
)
from .prompt_texts import read_piped, read_prompts

if TYPE_CHECKING:
    import numpy as np

    from ..loading.model import LoadedModel

EXAMPLES = examples(
    'gemma3-run gemma3-270m --prompt "The first person on the Moon was"',
    "cat notes.txt | gemma3-run gemma3-270m --max-new-tokens 200 --stats",
    'gemma3-run gemma3-4b --chat --image cat.jpg --prompt "What is in it?"',
)


@click.command(context_settings=HELP, epilog=EXAMPLES)
@run_options
def command(prompt: tuple[str, ...], prompt_file: tuple[str, ...], **options: Any) -> None:
    """Generate text with the programs of BUNDLE, without any model code.

    One prompt streams its text to stdout. Several prompts run as one batch and print one JSON
    object a line, in order. Without a prompt, a text that is piped in is one.
    """
    texts = read_prompts(prompt, prompt_file)
    if not texts and not options["tokens"]:
        texts = read_piped()
    run(Options(prompt=texts, **options))


def main() -> NoReturn:
    """`gemma3-run` with the arguments of this process."""
    run_command(command)


def console() -> NoReturn:
    """Entry point of `gemma3-run`."""
    # At once: taking JAX down in order takes a twentieth of a short run.
    run_command(command, leave=os._exit)


def run(options: Options) -> None:
    """Do what the command line says; raises UsageError for what the user can fix."""
    check_flags(options)
    bundle = open_bundle(options.bundle, options.require_signature)
    _refuse_missing_programs(options, bundle)
    sampling = sampling_of(options)
    read_tokenizer_ahead(bundle)
    pictures = _read_images(options, bundle)
    if options.server is not None:
        from . import served

        served.check_flags(options)
        prompts, stop_tokens = _read_prompts(options, bundle, pictures)
        _run_served(options, bundle, prompts, sampling, stop_tokens, pictures)
        return
    with StatusLine() as status:
        # While the tokenizer is read.
        import_jax(bundle, options.mesh, options.platform, status)
        prompts, stop_tokens = _read_prompts(options, bundle, pictures)
        model = load_model(bundle, options.mesh, options.platform, status, not options.no_cache)
        images = pixels_of(pictures)
        if options.score:
            _score(options, model, prompts, images, status)
        elif options.classify:
            _classify(options, model, prompts, images, status)
        elif options.embed:
            _embed(options, model, prompts, status)
        else:
            _generate(options, model, prompts, sampling, stop_tokens, images, status)
        model.close()  # what was compiled is stored by then


def _run_served(
    options: Options,
    bundle: Bundle,
    prompts: list[list[int]],
    sampling: SamplingParameters,
    stop_tokens: list[int],
    pictures: list[Picture],
) -> None:
    from ..serving import remote
    from . import served
    from .output import print_classes, print_scores, print_vectors

    model, text = served.open_model(options, bundle), _prints_text(options)
    if options.score:
        tokenizer = open_tokenizer(bundle) if bundle.manifest.tokenizer is not None else None
        print_scores(prompts, remote.score_remote(model, prompts), tokenizer, text)
    elif options.classify:
        print_classes(bundle.manifest.model.labels, remote.classify_remote(model, prompts), text)
    elif options.embed:
        print_vectors(remote.embed_remote(model, prompts), text)
    else:
        if text:
            open_tokenizer(bundle)  # a bundle without one has no text to print
        images = pixels_of(pictures)
        served.print_generated(
            options, model, prompts, sampling, stop_tokens, images, DEFAULT_NEW_TOKENS, text
        )


def _refuse_missing_programs(options: Options, bundle: Bundle) -> None:
    names = {str(program.bucket.program) for program in bundle.manifest.programs}
    for program, kind, asked in (
        ("classify", "a classifier", options.classify),
        ("embed", "an embedding model", options.embed),
    ):
        if names == {program} and not asked:
            raise UsageError(
                f"{bundle.root} holds {kind} and has no other program than {program}: pass "
                f"--{program}, or export another checkpoint"
            )
    for flag, given, program in (
        ("--image", bool(options.image), "encode_image"),
        ("--image with --score", bool(options.image and options.score), "score_images"),
        ("--image with --classify", bool(options.image and options.classify), "classify_images"),
        ("--classify", options.classify, "classify"),
        ("--embed", options.embed, "embed"),
    ):
        if given and program not in names:
            raise UsageError(
                f"{flag}: {bundle.root} has no {program} program (it has "
                f"{', '.join(sorted(names))}); export a checkpoint that needs one, with "
                f"{program} among --programs where they are named"
            )


def _read_images(options: Options, bundle: Bundle) -> list[Picture]:
    vision = bundle.manifest.vision
    if not options.image or vision is None:
        return []
    return load_images(options.image, vision.image_size, options.pan_and_scan)


def _read_prompts(
    options: Options, bundle: Bundle, pictures: list[Picture]
) -> tuple[list[list[int]], list[int]]:
    """Token ids of each prompt, and the stop tokens that their form brings with it."""
    vision = bundle.manifest.vision
    if options.tokens:
        return [parse_ids("--tokens", "2,17,18", text) for text in options.tokens], []
    tokenizer = open_tokenizer(bundle)
    stop_tokens = []
    if options.chat and not options.ignore_eos:
        stop_tokens = [tokenizer.steering_id(END_OF_TURN)]
    if pictures and vision is not None:
        crops, tokens = [picture.crops for picture in pictures], image_tokens(vision)
        prompt = encode_prompt(tokenizer, options.prompt[0], crops, tokens, options.chat)
        return [prompt], stop_tokens
    before = bundle_prompts(bundle).text(options.task, str(bundle.root)) if options.embed else ""
    if options.chat:
        refuse_chat(before)
        return [tokenizer.chat(text) for text in options.prompt], stop_tokens
    record = bundle.manifest.tokenizer
    add_bos = record is not None and record.add_bos
    # An end token would end a text that is to go on.
    whole = (options.classify or options.embed) and record is not None and record.add_eos
    end = list(bundle.manifest.model.eos_token_ids[:1]) if whole else []
    return [tokenizer.encode(before + text, add_bos) + end for text in options.prompt], []


def _generate(
    options: Options,
    model: LoadedModel,
    prompts: list[list[int]],
    sampling: SamplingParameters,
    stop_tokens: list[int],
    images: list[np.ndarray],
    status: StatusLine,
) -> None:
    from ..requests.generate import Request, buckets_of, most_new_tokens, plan_request, run_request
    from .output import completion_json, model_stats, print_stats

    new_tokens = options.max_new_tokens
    if new_tokens is None:
        fits = most_new_tokens(model, prompts, options.logprobs or 0, images)
        new_tokens = max(
            1, min(DEFAULT_NEW_TOKENS, fits)
        )  # where 1 does not fit, a refusal says so
    request = Request(
        prompts, new_tokens, sampling, stop_tokens, options.stop, options.ignore_eos,
        options.logprobs or 0, images, options.special,
    )  # fmt: skip
    groups = plan_request(model, request)
    compile_ahead(model, buckets_of(model, request, groups), status)
    loaded_at = time.monotonic()
    streams = _prints_text(options)
    if streams:
        _ = model.tokenizer  # a bundle without one has no text to print
    status.say("reading the prompt" if streams else "generating")

    def print_text(_: int, text: str) -> None:
        status.say("")
        print(text, end="", flush=True)

    completions = []
    for completion in run_request(model, request, groups, print_text if streams else None):
        completions.append(completion)
        status.say("")
        stats = model_stats(model, [completion.timing], loaded_at)
        print("" if streams else json.dumps(completion_json(completion, stats)), flush=True)
    if options.stats:
        print_stats(model, completions, loaded_at)


def _score(
    options: Options, model: LoadedModel, texts: list[list[int]], images: list[np.ndarray],
    status: StatusLine,
) -> None:  # fmt: skip
    from ..requests.score import ScoreRequest, plan_score, run_score, score_buckets
    from .output import print_scores, write_outputs

    labels = [parse_ids("--labels", "-100,17,18", text) for text in options.labels]
    outputs = model.bundle.manifest.score_outputs if options.outputs_to else ()
    if options.outputs_to and not outputs:
        raise UsageError(
            f"--outputs-to: the score program of {options.bundle} gives log-probabilities only; "
            "re-export with --outputs hidden_states,attentions"
        )
    request = ScoreRequest(texts, labels, images, outputs)
    groups = plan_score(model, request)
    compile_ahead(model, score_buckets(model, request, groups), status)
    status.say("scoring")
    scores = run_score(model, request, groups)
    status.say("")
    if options.outputs_to:
        write_outputs(options.outputs_to, texts, scores)
    tokenizer = model.tokenizer if model.bundle.manifest.tokenizer is not None else None
    print_scores(labels or texts, scores, tokenizer, _prints_text(options))


def _classify(
    options: Options, model: LoadedModel, texts: list[list[int]], images: list[np.ndarray],
    status: StatusLine,
) -> None:  # fmt: skip
    from ..requests.classify import classify_buckets, plan_classify, run_classify
    from .output import print_classes

    groups = plan_classify(model, texts, images)
    compile_ahead(model, classify_buckets(model, texts, images, groups), status)
    status.say("classifying")
    results = run_classify(model, texts, images, groups)
    status.say("")
    print_classes(model.bundle.manifest.model.labels, results, _prints_text(options))


def _embed(
    options: Options, model: LoadedModel, texts: list[list[int]], status: StatusLine
) -> None:
    from ..requests.embed import plan_embed, run_embed
    from .output import print_vectors

    groups = plan_embed(model, texts)
    compile_ahead(model, {group.bucket for group in groups}, status)
    status.say("embedding")
    vectors = run_embed(model, texts, groups)
    status.say("")
    print_vectors(vectors, _prints_text(options))


def _prints_text(options: Options) -> bool:
    """True when the output is for people: one prompt, and no JSON asked for."""
    single = len(options.prompt or options.tokens) == 1
    return single and not options.as_json and options.logprobs is None
