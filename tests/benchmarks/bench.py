"""`make bench`: the bundle against what users would run instead, interleaved in one run.

Real Gemma 3 270M, the same weights everywhere, two threads. Prints tables and ratios, losses
included; `--json` prints everything measured, `--chart FILE` draws it. Takes about ten minutes.
llama.cpp is the build of `make llama.cpp` if there is one, else xllamacpp as pip installs it.
"""

from __future__ import annotations

import argparse
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import jax
import jax.numpy as jnp
from bundles import (
    BUILD,
    DEFAULT,
    EIGHT,
    ONE,
    RECIPES,
    ROOT,
    Recipe,
    command,
    export_bundle,
)
from gemma3_export.artifacts.bundle import Bundle
from gemma3_export.export.checkpoint.demo import demo_checkpoint
from measure import memory_readers
from ours import Measured
from peers import hugging_face, plain_jax
from peers.gguf_files import weight_bytes, write_gguf_files
from peers.llama_cpp import NativeLlama, find_native
from peers.process import run
from peers.xllama import PrebuiltLlama, find_prebuilt
from results import Case, Results, print_tables

CONTEXTS = (0, 512, 2048)
LONG = 8192
BATCH = 8
PROMPT = 512
TOKENS = 32
TEXT = "The first person to walk on the Moon"
LIMIT_BYTES = 512 << 20
OURS = "gemma3-export"
COMPILE_ALL = """
import sys, time
from gemma3_export.runtime.loading.model import LoadedModel
model = LoadedModel.load(sys.argv[1])
started = time.perf_counter()
model.compile(model.grid.buckets)
print(len(model.grid.buckets), time.perf_counter() - started)
"""


def main() -> None:
    """Export, compile, measure in rounds, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--recipes", default=",".join(recipe.name for recipe in RECIPES))
    parser.add_argument("--hf", metavar="PYTHON", help="measure transformers with this Python")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--chart", type=Path, metavar="PNG", help="draw the results")
    options = parser.parse_args()
    chosen = [recipe for recipe in RECIPES if recipe.name in options.recipes.split(",")]
    results = Results(_machine())
    _measure(results, chosen, options.rounds, options.hf)
    (BUILD / "results.json").write_text(results.to_json())
    if options.json:
        print(results.to_json())
    else:
        print_tables(results)
    if options.chart:
        from chart import draw

        draw(results, options.chart)


def _measure(results: Results, recipes: list[Recipe], rounds: int, hf: str | None) -> None:
    say("exporting")
    starts = {recipe.name: export_bundle(recipe, DEFAULT) for recipe in recipes}
    default = starts[recipes[0].name]
    paths = {r: (export_bundle(r, ONE), export_bundle(r, EIGHT)) for r in recipes}
    say("writing GGUF files")
    files = write_gguf_files(demo_checkpoint(), BUILD / "gguf")
    results.facts["bytes a token"] = {name: weight_bytes(path) for name, path in files.items()}
    say("compiling everything of a bundle with three prefill sizes, nothing kept")
    programs, seconds = run([sys.executable, "-c", COMPILE_ALL, default]).stdout.split()
    results.facts["compile all"] = {"programs": int(programs), "seconds": float(seconds)}
    say("compiling")
    ours = {recipe: tuple(map(Measured, both)) for recipe, both in paths.items()}
    for recipe, (one, eight) in ours.items():
        one.compile([(1, context) for context in (*CONTEXTS, LONG)], [(1, PROMPT)])
        eight.compile([(BATCH, PROMPT)], [(BATCH, PROMPT)])
        results.facts["bytes a token"][recipe.name] = one.weight_bytes
        results.facts.setdefault("variants", {})[recipe.name] = one.variant
    limits = _Limits()
    plain = _Plain(default) if recipes[0].name == "bf16" else None
    llama = find_native(ROOT / "build", 2) or find_prebuilt(2)
    for number in range(rounds):
        say(f"round {number + 1} of {rounds}")
        limits.measure(results)
        for recipe, (one, eight) in ours.items():
            _measure_ours(results, recipe, one, eight)
        if plain is not None:
            results.add(Case("decode", plain_jax.LABEL, "bf16", 1, 512), plain.rate())
        if llama is not None:
            for recipe in recipes:
                _measure_llama(results, recipe, llama, files[recipe.peer], number)
        _measure_starts(results, starts, llama, {r.peer: files[r.peer] for r in recipes})
    if hf is not None:
        say("transformers")
        _measure_hf(results, hf, default)


def _measure_ours(results: Results, recipe: Recipe, one: Measured, eight: Measured) -> None:
    for context in (*CONTEXTS, LONG):
        results.add(Case("decode", OURS, recipe.name, 1, context), one.decode(1, context))
    results.add(Case("decode", OURS, recipe.name, BATCH, PROMPT), eight.decode(BATCH, PROMPT))
    for rows, measured in ((1, one), (BATCH, eight)):
        case = Case("prefill", OURS, recipe.name, rows, PROMPT)
        results.add(case, measured.prefill(rows, PROMPT))


def _measure_llama(
    results: Results, recipe: Recipe, llama: NativeLlama | PrebuiltLlama, file: Path, number: int
) -> None:
    """One round; what takes long, long contexts and batches, in the first or first two only."""
    speeds = llama.decode(file, list(CONTEXTS[: 3 if number < 2 else 2]), TOKENS)
    if number == 0:
        speeds |= llama.decode(file, [LONG], TOKENS)
    for context, speed in speeds.items():
        results.add(Case("decode", llama.label, recipe.peer, 1, context), speed)
    results.add(Case("prefill", llama.label, recipe.peer, 1, PROMPT), llama.prefill(file, PROMPT))
    batch = llama.batch(file, BATCH, PROMPT, TOKENS) if number < 2 else None
    if batch is not None:
        results.add(Case("prefill", llama.label, recipe.peer, BATCH, PROMPT), batch[0])
        results.add(Case("decode", llama.label, recipe.peer, BATCH, PROMPT), batch[1])


def _measure_starts(
    results: Results,
    bundles: dict[str, Path],
    llama: NativeLlama | PrebuiltLlama | None,
    files: dict[str, Path],
) -> None:
    """Whole processes that write one token; a first one has stored what it compiled."""
    for name, path in bundles.items():
        arguments = [command("gemma3-run"), path, "--prompt", TEXT, "--max-new-tokens", "1"]
        case = Case("start", OURS, name, 1, 0)
        if case not in results.samples:
            run(arguments)
        done = run(arguments)
        results.add(case, done.seconds)
        results.add(Case("memory", OURS, name, 1, 0), done.peak_rss_bytes)
    if llama is not None:
        for name, file in files.items():
            seconds, peak = llama.one_token(file, TEXT)
            results.add(Case("start", llama.label, name, 1, 0), seconds)
            results.add(Case("memory", llama.label, name, 1, 0), peak)


def _measure_hf(results: Results, python: str, bundle: Path) -> None:
    try:
        found = hugging_face.measure(python, bundle, "cpu", PROMPT, 16)
    except (OSError, RuntimeError, subprocess.TimeoutExpired) as error:
        print(f"transformers could not be measured: {error}", file=sys.stderr)
        return
    results.facts["transformers"] = {name: found[name] for name in ("torch", "transformers")}
    for what in ("prefill", "decode"):
        results.add(Case(what, hugging_face.LABEL, "bf16", 1, PROMPT), found[what])


class _Limits:
    """What the machine can do: bytes read and float32 products, in a second."""

    def __init__(self) -> None:
        self._readers = memory_readers(LIMIT_BYTES)
        square = jnp.ones((2048, 2048), jnp.float32)
        product = jax.jit(jnp.matmul)
        self._product = lambda: product(square, square)
        for work in (*self._readers, self._product):
            jax.block_until_ready(work())

    def measure(self, results: Results) -> None:
        """Add three readings of each; of memory, by whichever way is fastest then."""
        for name, ways, amount in (
            ("memory read", self._readers, LIMIT_BYTES),
            ("float32 product", (self._product,), 2 * 2048**3),
        ):
            for _ in range(3):
                best = min(map(_seconds, ways))
                results.add(Case("limit", name, "", 0, 0), amount / best)


def _seconds(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    jax.block_until_ready(work())
    return time.perf_counter() - started


class _Plain:
    """Single steps of the textbook model."""

    def __init__(self, path: Path) -> None:
        self._step = plain_jax.plain_decode(Bundle.open(path), 512)
        jax.block_until_ready(self._step())

    def rate(self) -> float:
        """Tokens per second of two steps."""
        started = time.perf_counter()
        for _ in range(2):
            jax.block_until_ready(self._step())
        return 2 / (time.perf_counter() - started)


def _machine() -> dict[str, object]:
    return {
        "cpu": next(_cpu_names(), platform.processor()),
        "cores": os.cpu_count(),
        "jax": jax.__version__,
        "python": platform.python_version(),
    }


def _cpu_names() -> Iterator[str]:
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        return
    features = " avx512_vnni" if "avx512_vnni" in text else " avx512" if "avx512f" in text else ""
    for line in text.splitlines():
        if line.startswith("model name"):
            yield line.split(":", 1)[1].strip() + features


def say(what: str) -> None:
    """Progress, on stderr."""
    print(f"[{time.strftime('%H:%M:%S')}] {what}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
