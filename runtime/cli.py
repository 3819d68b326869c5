"""The command `gemma3-run`: text from a bundle."""

from __future__ import annotations

import contextlib
import json
import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import click

from ..artifacts.bundle import Bundle
from ..artifacts.errors import UsageError, run_command
from ..artifacts.prompts import bundle_prompts, refuse_chat
from .flag_types import NUMBER, WHOLE, is_whole
from .image_prompt import encode_prompt, image_tokens
from .images import Picture, load_images, pixels_of
from .opening import open_tokenizer, read_tokenizer_ahead
from .sampling import SamplingParameters, check_new_tokens
from .startup import (
    bundle_options,
    compile_ahead,
    import_jax,
    load_model,
    open_bundle,
)
from .terminal import StatusLine
from .tokenizer import END_OF_TURN, check_text

if TYPE_CHECKING:
    import numpy as np

    from .model import LoadedModel

DEFAULT_NEW_TOKENS = 64


@dataclass(frozen=True)
class Options:
    """The command line of `gemma3-run`."""

    bundle: Path
    prompt: tuple[str, ...]
    tokens: tuple[str, ...]
    image: tuple[Path, ...]
    pan_and_scan: bool
    chat: bool
    max_new_tokens: int | None
    temperature: float
    top_k: int
    top_p: float
    min_p: float
    seed: int
    stop: tuple[str, ...]
    special: bool
    ignore_eos: bool
    logprobs: int | None
    score: bool
    labels: tuple[str, ...]
    outputs_to: Path | None
    classify: bool
    embed: bool
    task: str | None
    mesh: str | None
    platform: str | None
    server: str | None
    require_signature: Path | None
    no_cache: bool
    as_json: bool
    stats: bool


@click.command()
@click.argument("bundle", type=click.Path(path_type=Path))
@click.option("--prompt", multiple=True, metavar="TEXT", help="Text to go on from. Repeatable.")
@click.option(
    "--tokens",
    multiple=True,
    metavar="2,17,18",
    help="Token ids to go on from, used exactly as given. Repeatable.",
)
@click.option(
    "--image",
    multiple=True,
    metavar="F.png|F.npy",
    type=click.Path(path_type=Path),
    help="Image of the prompt: a picture, or normalised pixels [N,3,H,W]. Repeatable.",
)
@click.option("--pan-and-scan", is_flag=True, help="Show long pictures in parts as well as whole.")
@click.option("--chat", is_flag=True, help="Put each --prompt as a user's turn of a conversation.")
@click.option(
    "--max-new-tokens",
    type=WHOLE,
    metavar="N",
    help=f"Tokens to generate; {DEFAULT_NEW_TOKENS}, or what fits if that is less.",
)
@click.option(
    "--temperature",
    type=NUMBER,
    default=0.0,
    metavar="T",
    help="Randomness; 0, the default, is greedy: always the likeliest token.",
)
@click.option(
    "--top-k",
    type=WHOLE,
    default=0,
    metavar="K",
    help="Draw from the K likeliest tokens; 0, the default, is off.",
)
@click.option(
    "--top-p",
    type=NUMBER,
    default=1.0,
    metavar="P",
    help="Draw from the likeliest tokens that make up P; 1, the default, is off.",
)
@click.option(
    "--min-p",
    type=NUMBER,
    default=0.0,
    metavar="P",
    help="Draw from tokens at least P times as likely as the first; 0 is off.",
)
@click.option(
    "--seed",
    type=WHOLE,
    default=0,
    metavar="S",
    help="The same seed gives the same text; 0 by default.",
)
@click.option(
    "--stop",
    multiple=True,
    metavar="TEXT",
    help="End before this text, and leave it out. Repeatable.",
)
@click.option("--special", is_flag=True, help="Show control tokens in the text.")
@click.option("--ignore-eos", is_flag=True, help="Go on after the model's end tokens.")
@click.option(
    "--logprobs", type=WHOLE, metavar="K", help="The K likeliest tokens at each step; prints JSON."
)
@click.option("--score", is_flag=True, help="Log-probabilities of the prompt instead of new text.")
@click.option(
    "--labels",
    multiple=True,
    metavar="-100,17,18",
    help="With --score: a label for each token of the prompt, -100 for none. Repeatable.",
)
@click.option(
    "--outputs-to",
    metavar="F.npz",
    type=click.Path(path_type=Path),
    help="With --score: write the hidden states and attentions that BUNDLE gives.",
)
@click.option("--classify", is_flag=True, help="Class scores of the prompt.")
@click.option("--embed", is_flag=True, help="The vector of the prompt.")
@click.option(
    "--task",
    metavar="NAME",
    help="With --embed: put the model's prompt of this task, such as query, before --prompt.",
)
@bundle_options
@click.option(
    "--server",
    metavar="HOST:PORT",
    help="Let TensorFlow Serving run the SavedModel: gRPC, or REST with http://HOST:PORT.",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object per prompt.")
@click.option("--stats", is_flag=True, help="Print speed and memory on stderr.")
@click.version_option(package_name="gemma3-export")
def command(**options: Any) -> None:
    """Generate text with the programs of BUNDLE, without any model code.

    One prompt streams its text to stdout. Several prompts run as one batch and print one JSON
    object a line, in order.
    """
    run(Options(**options))


def main() -> NoReturn:
    """`gemma3-run` with the arguments of this process."""
    run_command(command)


def console() -> NoReturn:
    """Entry point of `gemma3-run`."""
    # At once: taking JAX down in order takes a twentieth of a short run.
    run_command(command, leave=os._exit)


def run(options: Options) -> None:
    """Do what the command line says; raises UsageError for what the user can mend."""
    _check_flags(options)
    bundle = open_bundle(options.bundle, options.require_signature)
    _refuse_missing_programs(options, bundle)
    sampling = SamplingParameters(
        options.temperature, options.top_k, options.top_p, options.min_p, options.seed
    )
    read_tokenizer_ahead(bundle)
    pictures = _read_images(options, bundle)
    if options.server is not None:
        from .serving.command import check_flags

        check_flags(options)
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
    from .report import print_classes, print_scores, print_vectors
    from .serving import command as served
    from .serving import remote

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


def _check_flags(options: Options) -> None:
    if options.prompt and options.tokens:
        raise UsageError("--prompt and --tokens exclude each other: pass only one of them")
    if not options.prompt and not options.tokens:
        raise UsageError("nothing to go on from: pass --prompt TEXT or --tokens 2,17,18")
    if options.chat and options.tokens:
        raise UsageError("--chat needs --prompt: --tokens are used exactly as given")
    others = {"--score": options.score, "--classify": options.classify, "--embed": options.embed}
    asked = [flag for flag, given in others.items() if given]
    if len(asked) > 1:
        raise UsageError(f"{' and '.join(asked)} exclude each other: pass only one of them")
    for flag, texts in (("--prompt", options.prompt), ("--stop", options.stop)):
        for text in texts:
            check_text(flag, text)
    if options.image and len(options.prompt or options.tokens) > 1:
        raise UsageError("--image goes with one prompt: pass one --prompt or --tokens")
    if options.pan_and_scan and not options.image:
        raise UsageError("--pan-and-scan needs --image: it says how pictures are shown")
    if options.logprobs is not None and options.logprobs < 1:
        raise UsageError(f"--logprobs: expected at least 1, got {options.logprobs}")
    if options.max_new_tokens is not None:
        check_new_tokens(options.max_new_tokens)
    for flag, given in (("--mesh", options.mesh), ("--platform", options.platform)):
        if given == "":
            raise UsageError(f"{flag} is empty: name one of the bundle, or leave it out")
    generating = {
        "--max-new-tokens": options.max_new_tokens is not None,
        "--stop": bool(options.stop),
        "--special": options.special,
        "--ignore-eos": options.ignore_eos,
        "--logprobs": options.logprobs is not None,
        "--temperature": options.temperature != 0,
        "--top-k": options.top_k != 0,
        "--top-p": options.top_p != 1,
        "--min-p": options.min_p != 0,
        "--seed": options.seed != 0,
    }
    for flag in [flag for flag, given in generating.items() if given and asked]:
        raise UsageError(f"{asked[0]} and {flag} exclude each other: {asked[0]} generates nothing")
    if options.embed and options.image:
        raise UsageError("--embed and --image exclude each other: an embedding model reads text")
    _check_task(options)
    _check_score_flags(options)


def _check_task(options: Options) -> None:
    if options.task is None:
        return
    if not options.embed:
        raise UsageError("--task needs --embed: it says what a vector is for")
    if options.tokens:
        raise UsageError("--task needs --prompt: --tokens are used exactly as given")
    if options.chat:
        raise UsageError("--task and --chat exclude each other: pass only one of them")


def _check_score_flags(options: Options) -> None:
    for flag, given in (("--labels", options.labels), ("--outputs-to", options.outputs_to)):
        if given and not options.score:
            raise UsageError(f"{flag} needs --score: it says what to score, or what comes of it")
    path = options.outputs_to
    if path is None:
        return
    if path.suffix != ".npz":
        raise UsageError(f"--outputs-to: expected a file name that ends in .npz, got {str(path)!r}")
    if not path.parent.is_dir():
        raise UsageError(f"--outputs-to: {path.parent} is no folder; make it first")


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
                f"{', '.join(sorted(names))}); export a checkpoint that needs one"
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
        return [_parse_ids("--tokens", "2,17,18", text) for text in options.tokens], []
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


def _parse_ids(flag: str, example: str, text: str) -> list[int]:
    parts = text.split(",")
    with contextlib.suppress(ValueError):  # thousands of digits
        if all(map(is_whole, parts)):
            return [int(part) for part in parts]
    raise UsageError(f"{flag}: expected ids separated by commas, such as {example}, got {text!r}")


def _generate(
    options: Options,
    model: LoadedModel,
    prompts: list[list[int]],
    sampling: SamplingParameters,
    stop_tokens: list[int],
    images: list[np.ndarray],
    status: StatusLine,
) -> None:
    from .generate import Request, buckets_of, most_new_tokens, plan_request, run_request
    from .report import completion_json, print_stats

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
        value = "" if streams else json.dumps(completion_json(completion, loaded_at, model.variant))
        print(value, flush=True)
    if options.stats:
        print_stats(completions, loaded_at)


def _score(
    options: Options, model: LoadedModel, texts: list[list[int]], images: list[np.ndarray],
    status: StatusLine,
) -> None:  # fmt: skip
    from .report import print_scores, write_outputs
    from .score import ScoreRequest, plan_score, run_score, score_buckets

    labels = [_parse_ids("--labels", "-100,17,18", text) for text in options.labels]
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
    from .classify import classify_buckets, plan_classify, run_classify
    from .report import print_classes

    groups = plan_classify(model, texts, images)
    compile_ahead(model, classify_buckets(model, texts, images, groups), status)
    status.say("classifying")
    results = run_classify(model, texts, images, groups)
    status.say("")
    print_classes(model.bundle.manifest.model.labels, results, _prints_text(options))


def _embed(
    options: Options, model: LoadedModel, texts: list[list[int]], status: StatusLine
) -> None:
    from .embed import plan_embed, run_embed
    from .report import print_vectors

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
