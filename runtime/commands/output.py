"""Results as the commands print them: JSON objects and tables."""

from __future__ import annotations

import json
import math
import sys
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ...artifacts.atomic import whole_file
from ...artifacts.errors import UsageError
from ...artifacts.memory import peak_rss_bytes
from ..loading.status import print_table
from ..requests.request import Completion, Timing
from ..requests.score import Score
from ..text.tokenizer import Tokenizer
from .stats import process_started_at, rate

if TYPE_CHECKING:
    from ..loading.model import LoadedModel


def completion_json(completion: Completion, stats: dict[str, Any]) -> dict[str, Any]:
    """The object that `gemma3-run --json` prints for one prompt."""
    value: dict[str, Any] = {
        "tokens": completion.tokens,
        "text": completion.text,
        "finish_reason": completion.finish_reason,
    }
    if completion.logprobs is not None:
        value["logprobs"] = completion.logprobs
    value["stats"] = stats
    return finite_json(value)


def finite_json(value: dict[str, Any]) -> dict[str, Any]:
    """An object with null for every number that is NaN or infinite, which JSON has not.

    Where there are any, `nonfinite` says how many: null may also say that nothing was computed.
    """
    count = 0

    def finite(part: Any) -> Any:
        nonlocal count
        if isinstance(part, dict):
            return {name: finite(inner) for name, inner in part.items()}
        if isinstance(part, list | tuple):
            return [finite(inner) for inner in part]
        if isinstance(part, float) and not math.isfinite(part):
            count += 1
            return None
        return part

    value = finite(value)
    return value | {"nonfinite": count} if count else value


def score_json(score: Score) -> dict[str, Any]:
    """The object that `gemma3-run --score --json` prints for one text."""
    return finite_json({"loss": score.loss, "logprobs": score.logprobs})


def write_outputs(path: Path, texts: Sequence[Sequence[int]], scores: Sequence[Score]) -> None:
    """Write what was scored as arrays by name into an .npz file; it appears whole or not at all.

    `tokens` [T], `logprobs` [T-1] (NaN where a label is ignored) and the outputs asked for; with
    several texts each name ends in the number of its text: `hidden_states_1`. Raises UsageError
    when the file cannot be written.
    """
    arrays: dict[str, Any] = {}
    for number, (text, score) in enumerate(zip(texts, scores, strict=True), 1):
        named = {
            "tokens": np.asarray(text, np.int32),
            "logprobs": np.asarray(score.logprobs, np.float32),
            "hidden_states": score.hidden_states,
            "attentions": score.attentions,
        }
        ending = f"_{number}" if len(texts) > 1 else ""
        arrays |= {name + ending: array for name, array in named.items() if array is not None}
    try:
        with whole_file(path) as file:
            np.savez(file, **arrays)  # numpy before 2.2 takes allow_pickle for an array's name
    except OSError as error:
        raise UsageError(
            f"--outputs-to: cannot write {path}: {error.strerror}; choose another file"
        ) from error


def print_scores(
    labels: Sequence[Sequence[int]], scores: Sequence[Score], tokenizer: Tokenizer | None,
    text: bool,
) -> None:  # fmt: skip
    """Scores on stdout: as text a table for the only one, else a JSON object a line."""
    if text:
        print("\n".join(score_lines(labels[0], scores[0], tokenizer)))
    else:
        _print_objects(map(score_json, scores))


def print_classes(names: Sequence[str], results: Sequence[Sequence[float]], text: bool) -> None:
    """Class scores on stdout, in the same two ways."""
    if text:
        print("\n".join(classify_lines(names, results[0])))
    else:
        _print_objects(map(classify_json, results))


def print_vectors(vectors: Sequence[Sequence[float]], text: bool) -> None:
    """Vectors on stdout, in the same two ways."""
    if text:
        print(embed_line(vectors[0]))
    else:
        _print_objects(map(embed_json, vectors))


def _print_objects(objects: Iterable[dict[str, Any]]) -> None:
    for value in objects:
        print(json.dumps(value, allow_nan=False))


def classify_json(scores: Sequence[float]) -> dict[str, Any]:
    """The object that `gemma3-run --classify --json` prints for one text."""
    return finite_json({"scores": list(scores)})


def classify_lines(labels: Sequence[str], scores: Sequence[float]) -> list[str]:
    """A table of the classes of a text: score and name, in the model's order."""
    return [f"{score:10.4f}  {label}" for label, score in zip(labels, scores, strict=True)]


def embed_json(vector: Sequence[float]) -> dict[str, Any]:
    """The object that `gemma3-run --embed --json` prints for one text."""
    return finite_json({"embedding": list(vector)})


def embed_line(vector: Sequence[float]) -> str:
    """The numbers of a vector on one line."""
    return " ".join(f"{value:.6f}" for value in vector)


def model_stats(model: LoadedModel, timings: Sequence[Timing], loaded_at: float) -> dict[str, Any]:
    """`run_stats`, and which programs ran on which mesh."""
    mesh = model.record.mesh.name
    return {**run_stats(timings, loaded_at), "variant": model.variant, "mesh": mesh}


def run_stats(timings: Sequence[Timing], loaded_at: float) -> dict[str, float | int | None]:
    """Seconds from the start of the process, tokens per second, and bytes; None: not measured.

    `loaded_at` is when weights and programs were ready, on the clock of `time.monotonic`.
    """
    started_at = process_started_at()
    prefill = rate(sum(t.prefill_tokens for t in timings), sum(t.prefill_s for t in timings))
    decode = rate(sum(t.decode_tokens for t in timings), sum(t.decode_s for t in timings))
    return {
        "load_s": loaded_at - started_at,
        "first_token_s": timings[0].first_token_at - started_at,
        "prefill_tok_s": prefill,
        "decode_tok_s": decode,
        "peak_rss_bytes": peak_rss_bytes(),
    }


def client_stats(completions: Sequence[Completion], asked_at: float) -> dict[str, Any]:
    """What the client of a server can measure: seconds and tokens per second, network included.

    `asked_at` is when the first request was sent, on the clock of `time.monotonic`.
    """
    seconds = time.monotonic() - asked_at
    return {
        "client_first_answer_s": completions[0].timing.first_token_at - asked_at,
        "client_answered_s": seconds,
        "client_tok_s": rate(sum(len(c.tokens) for c in completions), seconds),
    }


def print_client_stats(completions: Sequence[Completion], asked_at: float) -> None:
    """The same on stderr; of loading and memory only the server knows."""
    stats = client_stats(completions, asked_at)
    made = _tokens(sum(len(c.tokens) for c in completions))
    print_table(
        [
            (
                "first answer",
                f"{stats['client_first_answer_s']:.2f} s",
                "measured here, from the first request",
            ),
            ("all answered", f"{stats['client_answered_s']:.2f} s", "network included"),
            ("new tokens", show_rate(stats["client_tok_s"]), made),
        ],
        sys.stderr,
    )


def _tokens(count: int) -> str:
    return f"{count} token{'' if count == 1 else 's'}"


def print_stats(model: LoadedModel, completions: Sequence[Completion], loaded_at: float) -> None:
    """The statistics of a whole run on stderr."""
    timings = list({id(c.timing): c.timing for c in completions}.values())  # one for each group
    stats = run_stats(timings, loaded_at)
    print_table(
        [
            ("load", f"{stats['load_s']:.2f} s", "until weights and programs were ready"),
            ("first token", f"{stats['first_token_s']:.2f} s", "from the start of the process"),
            (
                "prefill",
                show_rate(stats["prefill_tok_s"]),
                _tokens(sum(t.prefill_tokens for t in timings)),
            ),
            (
                "decode",
                show_rate(stats["decode_tok_s"]),
                _tokens(sum(t.decode_tokens for t in timings)),
            ),
            ("peak memory", show_bytes(stats["peak_rss_bytes"]), "resident, weights included"),
            ("mesh", model.record.mesh.name, _devices(model)),
        ],
        sys.stderr,
    )


def _devices(model: LoadedModel) -> str:
    mesh = model.record.mesh
    others = [r.mesh.name for r in model.bundle.manifest.meshes if r.mesh.name != mesh.name]
    beside = f"; the bundle has {', '.join(others)} too" if others else ""
    return f"{mesh.devices} {model.platform} device{'' if mesh.devices == 1 else 's'}{beside}"


def score_lines(tokens: Sequence[int], score: Score, tokenizer: Tokenizer | None) -> list[str]:
    """A table of a scored text: log-probability, id and text of each label that counts.

    `tokens` are the labels; the first has no log-probability.
    """

    def text(token: int) -> str:
        return repr(tokenizer.decode([token])) if tokenizer is not None else ""

    lines = [
        f"{logprob:10.4f}  {token:7d}  {text(token)}".rstrip()
        for token, logprob in zip(tokens[1:], score.logprobs, strict=True)
        if logprob is not None
    ]
    perplexity = math.exp(min(score.loss, 700.0))  # beyond that a float has no room
    summary = f"loss {score.loss:.4f}, perplexity {perplexity:.2f}, {len(lines)} tokens"
    return [*lines, summary]


def show_rate(value: float | None) -> str:
    """A rate in tokens per second."""
    return "-" if value is None else f"{value:.1f} tok/s"


def show_bytes(count: float | None) -> str:
    """Bytes in the unit the other commands use."""
    return "-" if count is None else f"{count / 2**20:.1f} MiB"
