"""Running a bundle's goldens, and recording them for an export.

`python -m gemma3_export.runtime.checks.goldens BUNDLE MESH PLATFORM` prints what a bundle gives as
the contents of a goldens.json. The exporter runs it so: in a process without model code, as any
host.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ...artifacts.bundle import Bundle
from ...artifacts.errors import EXIT_USAGE, UsageError
from ...artifacts.goldens import GOLDENS_VERSION, Golden, GoldenKind, Goldens, format_goldens
from ...artifacts.manifest import ProgramName
from ..loading.bundle import open_tokenizer
from ..loading.start import load_model
from ..loading.status import StatusLine
from ..requests.sampling import SamplingParameters

if TYPE_CHECKING:
    from ..loading.model import LoadedModel

TEXTS = (
    "The capital of France is",
    "Once upon a time there was a king who",
    "for i in range(10): print(i",
    "1, 2, 3, 4, 5,",
)
"""What goldens are recorded from when the bundle has a tokenizer; printable, as JSON demands."""
NEW_TOKENS = 16
_IDS = ((3, 1, 4, 1, 5, 9, 2, 6), (2, 7, 1, 8, 2, 8))
"""What they are recorded from otherwise, within the vocabulary."""
_NEAR_TIE = {"float32": 0.02, "bfloat16": 0.2}
"""Difference of log-probabilities below which another machine's rounding may turn the choice."""
_TOLERANCE = {"float32": 1e-3, "bfloat16": 0.1}


@dataclass(frozen=True)
class Outcome:
    """A golden and what came of it; `error` is empty when it came out right."""

    golden: Golden
    error: str


def run_goldens(model: LoadedModel, goldens: Goldens) -> list[Outcome]:
    """Run every golden on a loaded model and compare, in their order.

    Raises UsageError when one does not fit the bundle's buckets.
    """
    return [Outcome(golden, _run(model, golden, goldens.tolerance)) for golden in goldens.cases]


def record_goldens(model: LoadedModel) -> Goldens:
    """What the bundle gives now for a few fixed prompts.

    Generated texts end before the first choice that was nearly a tie, so that goldens hold on
    machines that round otherwise, and two machines record the same.
    """
    dtype = model.bundle.manifest.model.dtype
    programs = {program.bucket.program for program in model.bundle.manifest.programs}
    if ProgramName.CLASSIFY in programs:
        kind = GoldenKind.CLASSIFY
    else:
        kind = GoldenKind.EMBED if ProgramName.EMBED in programs else GoldenKind.GENERATE
    cases = [_record(model, kind, text, tokens, dtype) for text, tokens in _prompts(model)]
    tolerance = _TOLERANCE.get(dtype, _TOLERANCE["bfloat16"])
    return Goldens(GOLDENS_VERSION, tolerance, tuple(case for case in cases if case is not None))


def _run(model: LoadedModel, golden: Golden, tolerance: float) -> str:
    if golden.kind is GoldenKind.GENERATE:
        found = _generate(model, golden.tokens, len(golden.new_tokens))
        return _compare_tokens(golden.new_tokens, found)
    return _compare_values(golden.values, _values(model, golden), tolerance)


def _compare_tokens(expected: Sequence[int], found: Sequence[int]) -> str:
    for place, (want, got) in enumerate(zip(expected, found, strict=True), 1):
        if want != got:
            return f"new token {place} of {len(expected)}: expected {want}, got {got}"
    return ""


def _compare_values(expected: Sequence[float], found: Sequence[float], tolerance: float) -> str:
    if len(expected) != len(found):
        return f"expected {len(expected)} numbers, got {len(found)}"
    for place, (want, got) in enumerate(zip(expected, found, strict=True), 1):
        if not abs(want - got) <= tolerance:  # also when it is not a number
            return f"number {place}: expected {want:.6g} within {tolerance:g}, got {got:.6g}"
    return ""


def _generate(model: LoadedModel, tokens: Sequence[int], count: int) -> list[int]:
    from ..requests.generate import generate

    (done,) = generate(
        model, [list(tokens)], SamplingParameters(), max_new_tokens=count, ignore_eos=True
    )
    return done.tokens


def _values(model: LoadedModel, golden: Golden) -> list[float]:
    from ..requests.classify import classify
    from ..requests.embed import embed

    run = classify if golden.kind is GoldenKind.CLASSIFY else embed
    return run(model, [list(golden.tokens)])[0]


def _prompts(model: LoadedModel) -> list[tuple[str, tuple[int, ...]]]:
    """Texts with their tokens; where no tokenizer is, only tokens. Those that fit the buckets."""
    manifest = model.bundle.manifest
    if manifest.tokenizer is None:
        prompts = [("", tuple(i % manifest.model.vocab_size for i in ids)) for ids in _IDS]
    else:
        tokenizer, add_bos = open_tokenizer(model.bundle), manifest.tokenizer.add_bos
        prompts = [(text, tuple(tokenizer.encode(text, add_bos))) for text in TEXTS]
    buckets = [program.bucket for program in manifest.programs]
    room = max(max(bucket.cache, bucket.tokens) for bucket in buckets)
    most = max(1, room // 2)
    # A text that has to be cut says something else than its tokens.
    return [(text if len(tokens) <= most else "", tokens[:most]) for text, tokens in prompts]


def _record(
    model: LoadedModel, kind: GoldenKind, text: str, tokens: tuple[int, ...], dtype: str
) -> Golden | None:
    if kind is not GoldenKind.GENERATE:
        golden = Golden(kind, text, tokens, (), ())
        values = tuple(float(f"{value:.6g}") for value in _values(model, golden))
        return Golden(kind, text, tokens, (), values)
    count = _certain(model, tokens, _NEAR_TIE.get(dtype, _NEAR_TIE["bfloat16"]))
    if not count:
        return None
    return Golden(kind, text, tokens, tuple(_generate(model, tokens, count)), ())


def _certain(model: LoadedModel, tokens: Sequence[int], near: float) -> int:
    """How many new tokens are chosen before the first near tie."""
    from ..requests.generate import generate, most_new_tokens

    room = most_new_tokens(model, [list(tokens)], 2)
    (done,) = generate(
        model, [list(tokens)], SamplingParameters(), max_new_tokens=min(NEW_TOKENS, room),
        ignore_eos=True, logprobs=2,
    )  # fmt: skip
    tops = done.logprobs or []
    ties = [place for place, (first, second) in enumerate(tops) if first[1] - second[1] < near]
    return min(ties, default=len(tops))


def _main() -> None:
    bundle = Bundle.open(Path(sys.argv[1]))
    with StatusLine() as status:
        model = load_model(bundle, sys.argv[2], sys.argv[3], status)
        status.say("recording goldens")
        data = format_goldens(record_goldens(model))
    sys.stdout.buffer.write(data)


if __name__ == "__main__":
    try:
        _main()
    except UsageError as error:
        print(error.for_command, file=sys.stderr)
        sys.exit(EXIT_USAGE)
