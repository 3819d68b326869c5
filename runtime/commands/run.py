"""The command `gemma3-run`: text from a bundle."""

from __future__ import annotations

import json
import os
import time
from typing import TYPE_CHECKING, Any, NoReturn

import click

from ...artifacts.bundle import Bundle
from ...artifacts.convention import SAMPLING
from ...artifacts.errors import UsageError, run_command
from ...artifacts.examples import examples
from ...artifacts.paths import TOKENIZER_FOLDER
from ..loading.bundle import read_tokenizer_ahead
from ..loading.start import import_jax, load_model, open_bundle
from ..loading.status import StatusLine
from ..requests.sampling import SamplingParameters
from .encoded import prints_text, read_encoded
from .options import HELP, Options, check_flags, parse_ids, run_options, sampling_of
from .output import (
    completion_json,
    model_stats,
    print_classes,
    print_scores,
    print_stats,
    print_vectors,
    write_outputs,
)
from .prompt_texts import read_piped, read_prompts

if TYPE_CHECKING:
    from ..api.model import Model
    from ..api.prompts import Encoded
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
    sampling = {each.name: options.pop(each.name) for each in SAMPLING}
    run(Options(prompt=texts, sampling=sampling, **options))


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
    bundle = _open(options)
    _refuse_missing_programs(options, bundle)
    sampling = sampling_of(options)
    read_tokenizer_ahead(bundle)
    if options.server is not None:
        from . import served

        served.run(options, bundle, sampling, prints_text(options))
        return
    with StatusLine() as status:
        # While the tokenizer is read.
        import_jax(bundle, options.mesh, options.platform, status)
        from ..api.model import Model

        prompts = read_encoded(options, bundle)
        loaded = load_model(bundle, options.mesh, options.platform, status, not options.no_cache)
        with Model(loaded, status) as model:  # what was compiled is stored at the end
            if options.score:
                _score(options, model, prompts, status)
            elif options.classify:
                results = model.classify(prompts)
                status.say("")
                print_classes(model.labels, results.tolist(), prints_text(options))
            elif options.embed:
                vectors = model.embed(prompts)
                status.say("")
                print_vectors(vectors.tolist(), prints_text(options))
            else:
                _generate(options, loaded, model, prompts, sampling, status)


def _open(options: Options) -> Bundle:
    """The bundle; to ask a server, its manifest and tokenizer are enough."""
    if options.server is None or options.require_signature is not None:
        return open_bundle(options.bundle, options.require_signature)
    return Bundle.open_part(options.bundle, TOKENIZER_FOLDER)


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


def _generate(
    options: Options, loaded: LoadedModel, model: Model, prompts: Encoded,
    sampling: SamplingParameters, status: StatusLine,
) -> None:  # fmt: skip
    streams = prints_text(options)

    def print_text(_: int, text: str) -> None:
        status.say("")
        print(text, end="", flush=True)

    running = model.completions(
        prompts, print_text if streams else None, max_new_tokens=options.max_new_tokens,
        sampling=sampling, stop=options.stop, ignore_eos=options.ignore_eos,
        special=options.special, logprobs=options.logprobs or 0,
    )  # fmt: skip
    loaded_at = time.monotonic()
    completions = []
    for completion in running:
        completions.append(completion)
        status.say("")
        stats = model_stats(loaded, [completion.timing], loaded_at)
        print("" if streams else json.dumps(completion_json(completion, stats)), flush=True)
    if options.stats:
        print_stats(loaded, completions, loaded_at)


def _score(options: Options, model: Model, prompts: Encoded, status: StatusLine) -> None:
    labels = [parse_ids("--labels", "-100,17,18", text) for text in options.labels]
    manifest = model.manifest
    outputs = manifest.score_outputs if options.outputs_to else ()
    if options.outputs_to and not outputs:
        raise UsageError(
            f"--outputs-to: the score program of {options.bundle} gives log-probabilities only; "
            "re-export with --outputs hidden_states,attentions"
        )
    scores = model.score(prompts, labels=labels, outputs=outputs)
    status.say("")
    if options.outputs_to:
        write_outputs(options.outputs_to, prompts.prompts, scores)
    tokenizer = model.tokenizer if manifest.tokenizer is not None else None
    print_scores(labels or prompts.prompts, scores, tokenizer, prints_text(options))
