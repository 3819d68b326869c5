"""The command `gemma3-bench`: how fast a bundle runs here."""

from __future__ import annotations

import json
import statistics
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import click
import numpy as np

from ...artifacts.errors import UsageError, run_command
from ...artifacts.examples import examples
from ...artifacts.memory import peak_rss_bytes
from ..loading.buckets import Group, Shape
from ..loading.start import compile_ahead, load_model, open_bundle
from ..loading.status import StatusLine, print_table
from ..requests.sampling import SamplingParameters
from .flag_types import WHOLE
from .options import HELP, bundle_options
from .stats import process_started_at

if TYPE_CHECKING:
    from ..loading.model import LoadedModel


_PREFILL, _DECODE = 512, 128
EXAMPLES = examples(
    "gemma3-bench gemma3-270m",
    "gemma3-bench gemma3-270m --mesh 1x1 --context 128,1024 --json",
    "gemma3-bench gemma3-270m --batch 8 --prefill 128 --decode 64 --repeats 10",
)


@dataclass(frozen=True)
class Run:
    """One repeat, in seconds and tokens per second over all rows.

    `first_token_s` is from the call to the first token, with everything loaded.
    """

    first_token_s: float
    prefill_tok_s: float
    decode_tok_s: float


@dataclass(frozen=True)
class Options:
    """The command line of `gemma3-bench`."""

    bundle: Path
    prefill: int | None
    decode: int | None
    context: str | None
    batch: int
    repeats: int
    mesh: str | None
    platform: str | None
    require_signature: Path | None
    no_cache: bool
    as_json: bool


@click.command(context_settings=HELP, epilog=EXAMPLES)
@click.argument("bundle", type=click.Path(path_type=Path))
@click.option(
    "--prefill", type=WHOLE, help=f"Tokens of a prompt; {_PREFILL}, or what fits if that is less."
)
@click.option(
    "--decode",
    type=WHOLE,
    help=f"Tokens generated after; {_DECODE}, or what fits if that is less.",
)
@click.option(
    "--context",
    metavar="512,2048",
    help="Decode after prompts of these lengths as well, to see how speed falls with context.",
)
@click.option("--batch", type=WHOLE, default=1, show_default=True, help="Prompts at once.")
@click.option("--repeats", type=WHOLE, default=5, show_default=True, help="Measured repeats.")
@bundle_options
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@click.version_option(package_name="gemma3-export")
def command(**options: Any) -> None:
    """Measure loading, prefill, decoding and memory of BUNDLE on this machine.

    The first, cold run gives `load_s` and `first_token_s`, both from the start of the process.
    The repeats that follow give the medians of `prefill_tok_s` and `decode_tok_s`.
    """
    run(Options(**options))


def main() -> NoReturn:
    """Entry point of `gemma3-bench`."""
    run_command(command)


def run(options: Options) -> None:
    """Measure and print; raises UsageError when the bundle has no bucket for it."""
    for flag in ("prefill", "decode", "batch", "repeats"):
        if (value := getattr(options, flag)) is not None and value < 1:
            raise UsageError(f"--{flag}: expected at least 1, got {value}")
    contexts = _parse_contexts(options.context)
    bundle = open_bundle(options.bundle, options.require_signature)
    with StatusLine() as status:
        model = load_model(bundle, options.mesh, options.platform, status, not options.no_cache)
        work = _choose_work(model, options, status)
        for context in contexts:
            _choose_shape(model, work, "--context", context)  # refuses what does not fit
        result = measure(model, work, options.repeats, status)
        if contexts:
            result["decode_at"] = _measure_contexts(model, work, options.repeats, contexts, status)
            result["peak_rss_bytes"] = peak_rss_bytes()
    if options.as_json:
        print(json.dumps(result))
    else:
        _print(result)


@dataclass(frozen=True)
class Work:
    """What a repeat does: tokens of each prompt, tokens generated after it, prompts at once."""

    prefill: int
    decode: int
    batch: int


def measure(model: LoadedModel, work: Work, repeats: int, status: StatusLine) -> dict[str, Any]:
    """What `gemma3-bench --json` prints; raises UsageError when no bucket fits."""
    from ..requests.generate import buckets_of
    from ..requests.request import Request

    shape = _choose_shape(model, work, "--prefill", work.prefill)
    prompts = _prompts(model, work.batch, work.prefill)
    request = Request(prompts, work.decode + 1)
    compile_ahead(model, buckets_of(model, request, [Group(0, work.batch, shape)]), status)
    loaded_at = time.monotonic()
    runs, cold_first_s = [], 0.0
    for number in range(repeats + 1):
        status.say(f"repeat {number} of {repeats}" if number else "warming up")
        result, first_at = _measure_once(model, shape, prompts, work.decode)
        if number:
            runs.append(result)
        else:
            cold_first_s = first_at - process_started_at()
    return {
        "load_s": loaded_at - process_started_at(),
        "first_token_s": cold_first_s,
        "prefill_tok_s": statistics.median(run.prefill_tok_s for run in runs),
        "decode_tok_s": statistics.median(run.decode_tok_s for run in runs),
        "warm_first_token_s": statistics.median(run.first_token_s for run in runs),
        "peak_rss_bytes": peak_rss_bytes(),
        **asdict(work),
        "mesh": model.record.mesh.name,
        "platform": model.platform,
        "variant": model.variant,
        "runs": [asdict(run) for run in runs],
    }


def _parse_contexts(text: str | None) -> list[int]:
    try:
        contexts = [int(part) for part in text.split(",")] if text is not None else []
    except ValueError:
        contexts = [0]
    if any(context < 1 for context in contexts):
        raise UsageError(f"--context: expected lengths such as 512,2048, got {text!r}")
    return contexts


def _measure_contexts(
    model: LoadedModel, work: Work, repeats: int, contexts: list[int], status: StatusLine
) -> dict[str, float]:
    """Median tokens per second over all rows, by the length of the prompts before."""
    from ..requests.generate import buckets_of
    from ..requests.request import Request

    speeds = {}
    for context in contexts:
        shape = _choose_shape(model, work, "--context", context)
        prompts = _prompts(model, work.batch, context)
        request = Request(prompts, work.decode + 1)
        compile_ahead(model, buckets_of(model, request, [Group(0, work.batch, shape)]), status)
        status.say(f"decoding after {context} tokens")
        runs = [
            _measure_once(model, shape, prompts, work.decode)[0].decode_tok_s
            for _ in range(repeats + 1)
        ]
        speeds[str(context)] = statistics.median(runs[1:])
    return speeds


def _choose_work(model: LoadedModel, options: Options, status: StatusLine) -> Work:
    """What is asked for; where nothing is, the defaults, or what fits of them, saying so."""
    most = model.grid.longest(model.grid.generating(), "generate")
    # Of little room most is for the prompt, as by default.
    decode = options.decode or max(1, min(_DECODE, most - (options.prefill or most - most // 4)))
    prefill = options.prefill or max(1, min(_PREFILL, most - decode))
    usual = (options.prefill or _PREFILL, options.decode or _DECODE)
    if (prefill, decode) != usual and prefill + decode <= most:
        status.say("")
        print(
            f"note: --prefill {prefill} --decode {decode}, which fit the largest cache bucket of "
            f"{model.grid.source}, {most}",
            file=sys.stderr,
        )
    return Work(prefill, decode, options.batch)


def _choose_shape(model: LoadedModel, work: Work, flag: str, prefill: int) -> Shape:
    """The bucket for prompts of `prefill` tokens, which `flag` asked for."""
    grid, shapes = model.grid, model.grid.generating()
    most, needed = grid.longest(shapes, "generate"), prefill + work.decode
    if needed > most:
        raise UsageError(
            f"{flag} {prefill} and --decode {work.decode} do not fit: largest cache bucket of "
            f"{grid.source} is {most}; ask for at most {most} tokens together, or re-export with "
            f"--cache {1 << (needed - 1).bit_length()}"
        )
    largest = max(shape.batch for shape in shapes if shape.cache >= needed)
    if work.batch > largest:
        raise UsageError(
            f"--batch {work.batch} does not fit: largest batch bucket of {grid.source} is "
            f"{largest}; ask for at most {largest}, or re-export with --batch {work.batch}"
        )
    return grid.groups(shapes, work.batch, needed)[0].shape


def _prompts(model: LoadedModel, rows: int, length: int) -> list[list[int]]:
    """Seeded random ids: what they say does not matter for speed."""
    random = np.random.default_rng(0)
    return random.integers(0, model.vocab_size, (rows, length)).tolist()


def _measure_once(
    model: LoadedModel, shape: Shape, prompts: list[list[int]], decode: int
) -> tuple[Run, float]:
    """One run, and when its first token was there on the clock of `time.monotonic`."""
    from ..requests.session import Session

    started = time.monotonic()
    session = Session(model, shape, SamplingParameters())
    session.prefill(prompts, 1 + decode)
    first_at = time.monotonic()
    for _ in session.generate():
        pass
    ended = time.monotonic()
    rows = len(prompts)
    prefill_s, decode_s = first_at - started, ended - first_at
    tokens = rows * len(prompts[0])
    return Run(prefill_s, tokens / prefill_s, rows * decode / decode_s), first_at


def _print(result: dict[str, Any]) -> None:
    """The medians with their spread, as a table on stdout."""

    def spread(name: str) -> str:
        values = [run[name] for run in result["runs"]]
        return f"{min(values):.1f} to {max(values):.1f} in {len(values)} repeats"

    what = f"{result['batch']} x {result['prefill']} tokens, mesh {result['mesh']}"
    print_table(
        [
            ("load", f"{result['load_s']:.2f} s", "until weights and programs were ready"),
            ("first token", f"{result['first_token_s']:.2f} s", "cold, from the process's start"),
            ("", f"{result['warm_first_token_s']:.2f} s", f"warm, {what}"),
            ("prefill", f"{result['prefill_tok_s']:.1f} tok/s", spread("prefill_tok_s")),
            ("decode", f"{result['decode_tok_s']:.1f} tok/s", spread("decode_tok_s")),
            *[
                ("", f"{speed:.1f} tok/s", f"after {context} tokens")
                for context, speed in result.get("decode_at", {}).items()
            ],
            ("peak memory", f"{result['peak_rss_bytes'] / 2**20:.1f} MiB", "weights included"),
        ],
        sys.stdout,
    )
