"""The flags of the commands that run a bundle: declared, and held against each other."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import click

from ...artifacts.convention import SAMPLING
from ...artifacts.errors import UsageError
from ..api.request import make_sampling
from ..requests.sampling import DEFAULT_NEW_TOKENS, SamplingParameters, check_new_tokens
from ..text.tokenizer import check_text
from .flag_types import NUMBER, WHOLE, is_whole

Command = Callable[..., None]
HELP = {"help_option_names": ["-h", "--help"]}
"""Settings of every command: both ways of asking for help."""

BUNDLE_OPTIONS = (
    click.option(
        "--mesh",
        metavar="2x4",
        help="Mesh of the bundle to run on; by default the largest that devices are here for.",
    ),
    click.option("--platform", metavar="cpu", help="Platform to run on; JAX's own by default."),
    click.option(
        "--require-signature",
        type=click.Path(path_type=Path),
        metavar="KEY",
        help="Refuse a bundle that this public key or root certificate (PEM) has not signed.",
    ),
    click.option("--no-cache", is_flag=True, help="Neither use nor keep compiled programs."),
)
"""Of every command that runs a bundle: what `open_bundle` and `load_model` take."""

RUN_OPTIONS = (
    click.argument("bundle", type=click.Path(path_type=Path)),
    click.option(
        "--prompt",
        multiple=True,
        metavar="TEXT",
        help="Text to go on from; - reads standard input. Repeatable.",
    ),
    click.option(
        "--prompt-file",
        multiple=True,
        metavar="FILE",
        help="A file of such a text. Repeatable.",
    ),
    click.option(
        "--tokens",
        multiple=True,
        metavar="2,17,18",
        help="Token ids to go on from, used exactly as given. Repeatable.",
    ),
    click.option(
        "--image",
        multiple=True,
        metavar="F.png|F.npy",
        type=click.Path(path_type=Path),
        help="Image of the prompt: a picture, or normalised pixels [N,3,H,W]. Repeatable.",
    ),
    click.option(
        "--pan-and-scan", is_flag=True, help="Show long pictures in parts as well as whole."
    ),
    click.option(
        "--chat", is_flag=True, help="Put each --prompt as a user's turn of a conversation."
    ),
    click.option(
        "--max-new-tokens",
        type=WHOLE,
        metavar="N",
        help=f"Tokens to generate; {DEFAULT_NEW_TOKENS}, or what fits if that is less.",
    ),
    *(
        click.option(
            each.flag,
            type=WHOLE if each.whole else NUMBER,
            default=each.default,
            metavar=each.metavar,
            help=each.help,
        )
        for each in SAMPLING
    ),
    click.option(
        "--stop",
        multiple=True,
        metavar="TEXT",
        help="End before this text, and leave it out. Repeatable.",
    ),
    click.option("--special", is_flag=True, help="Show control tokens in the text."),
    click.option("--ignore-eos", is_flag=True, help="Go on after the model's end tokens."),
    click.option(
        "--logprobs",
        type=WHOLE,
        metavar="K",
        help="The K likeliest tokens at each step; prints JSON.",
    ),
    click.option(
        "--score", is_flag=True, help="Log-probabilities of the prompt instead of new text."
    ),
    click.option(
        "--labels",
        multiple=True,
        metavar="-100,17,18",
        help="With --score: a label for each token of the prompt, -100 for none. Repeatable.",
    ),
    click.option(
        "--outputs-to",
        metavar="F.npz",
        type=click.Path(path_type=Path),
        help="With --score: write the hidden states and attentions that BUNDLE gives.",
    ),
    click.option("--classify", is_flag=True, help="Class scores of the prompt."),
    click.option("--embed", is_flag=True, help="The vector of the prompt."),
    click.option(
        "--task",
        metavar="NAME",
        help="With --embed: put the model's prompt of this task, such as query, before --prompt.",
    ),
    *BUNDLE_OPTIONS,
    click.option(
        "--server",
        metavar="HOST:PORT|URL",
        help="Let TensorFlow Serving run the SavedModel: gRPC, or REST with http://HOST:PORT; "
        "grpcs:// and https:// speak TLS. Of BUNDLE manifest.json and tokenizer/ are enough.",
    ),
    click.option(
        "--server-header",
        multiple=True,
        metavar="NAME: VALUE",
        help="Send this header. Repeatable; a secret is better put into GEMMA3_SERVER_TOKEN, "
        "which is sent as Authorization: Bearer.",
    ),
    click.option(
        "--server-ca",
        metavar="FILE",
        type=click.Path(path_type=Path),
        help="Trust the roots in this file (PEM) instead of the system's.",
    ),
    click.option(
        "--server-cert",
        metavar="FILE",
        type=click.Path(path_type=Path),
        help="Show this certificate (PEM) to the server.",
    ),
    click.option(
        "--server-key",
        metavar="FILE",
        type=click.Path(path_type=Path),
        help="Its private key; by default in the same file.",
    ),
    click.option("--json", "as_json", is_flag=True, help="Print one JSON object per prompt."),
    click.option("--stats", is_flag=True, help="Print speed and memory on stderr."),
    click.version_option(package_name="gemma3-export"),
)


def bundle_options(command: Command) -> Command:
    """`command` with BUNDLE_OPTIONS."""
    return _with(BUNDLE_OPTIONS, command)


def run_options(command: Command) -> Command:
    """`command` with the flags of `gemma3-run`, which are the fields of Options."""
    return _with(RUN_OPTIONS, command)


def _with(options: tuple[Callable[[Command], Command], ...], command: Command) -> Command:
    for option in reversed(options):  # a decorator stands above those that came before it
        command = option(command)
    return command


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
    sampling: Mapping[str, float]
    """The sampling parameters by name."""
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
    server_header: tuple[str, ...]
    server_ca: Path | None
    server_cert: Path | None
    server_key: Path | None
    require_signature: Path | None
    no_cache: bool
    as_json: bool
    stats: bool


def check_flags(options: Options) -> None:
    """Refuse flags of `gemma3-run` that do not go together.

    Raises:
        UsageError: names the flags.
    """
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
        **{each.flag: options.sampling[each.name] != each.neutral for each in SAMPLING},
    }
    for flag in [flag for flag, given in generating.items() if given and asked]:
        raise UsageError(f"{asked[0]} and {flag} exclude each other: {asked[0]} generates nothing")
    if options.embed and options.image:
        raise UsageError("--embed and --image exclude each other: an embedding model reads text")
    _check_task(options)
    _check_score_flags(options)
    _check_server_flags(options)


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
        raise UsageError(f"--outputs-to: {path.parent} is not a folder; make it first")


def _check_server_flags(options: Options) -> None:
    for flag, given in (
        ("--server-header", options.server_header), ("--server-ca", options.server_ca),
        ("--server-cert", options.server_cert), ("--server-key", options.server_key),
    ):  # fmt: skip
        if given and options.server is None:
            raise UsageError(f"{flag} needs --server: it says how to speak to one")
    if options.server_key is not None and options.server_cert is None:
        raise UsageError("--server-key needs --server-cert: it is the certificate's")


def sampling_of(options: Options) -> SamplingParameters:
    """How tokens are drawn.

    Raises:
        UsageError: a value is out of range, or says how to draw where nothing is drawn.
    """
    return make_sampling(**options.sampling)


def parse_ids(flag: str, example: str, text: str) -> list[int]:
    """Ids separated by commas.

    Raises:
        UsageError: names the flag and gives the example.
    """
    parts = text.split(",")
    with contextlib.suppress(ValueError):  # thousands of digits
        if all(map(is_whole, parts)):
            return [int(part) for part in parts]
    raise UsageError(f"{flag}: expected ids separated by commas, such as {example}, got {text!r}")
