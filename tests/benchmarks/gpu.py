"""Everything there is to know of a bundle on a GPU, in under ten minutes on a machine with one.

Exports bundles for the device (270M with its real weights; 1B and 4B with random ones), compares
the tokens of the Python runtime, and of the native host if it is given, with those of this
machine's CPU, and measures decode and prefill against the device's own rates, plain `jax.jit` and
transformers. Status 1 when tokens differ by more than rounding.

`--platform cpu --tiny` is a dry run of all of it on a machine without a device.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import jax
import jax.numpy as jnp
from bundles import command
from gemma3_export.artifacts.bundle import Bundle
from gemma3_export.model.config import PUBLISHED_SIZES, Gemma3TextConfig
from ours import Measured
from peers import hugging_face, plain_jax
from peers.process import run
from random_checkpoint import write_random_checkpoint
from results import OURS, Case, Results, print_tables

ROUNDS = 5
NEW_TOKENS = 16
ROUNDING = 0.1  # nats between the two likeliest tokens, below which bfloat16 may swap them
TINY = Gemma3TextConfig(
    vocab_size=512, hidden_size=64, intermediate_size=128, num_hidden_layers=2,
    num_attention_heads=4, num_key_value_heads=1, head_dim=16, query_pre_attn_scalar=16,
    sliding_window=8, sliding_window_pattern=2, max_position_embeddings=128, initializer_range=0.3,
)  # fmt: skip


@dataclass(frozen=True)
class Scale:
    """How large everything is."""

    sizes: tuple[str, ...]
    prompt: int
    cache: int
    batch: int
    square: int
    read_bytes: int


FULL = Scale(("270m", "1b", "4b"), 512, 2048, 8, 8192, 4 << 30)
DRY = Scale(("tiny",), 16, 64, 2, 128, 1 << 20)


def main() -> None:
    """Run everything and print it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--platform", default="cuda", choices=("cuda", "cpu", "tpu"))
    parser.add_argument("--tiny", action="store_true", help="a dry run on a tiny model")
    parser.add_argument("--sizes", help="of the models, by default 270m,1b,4b")
    parser.add_argument("--host", metavar="PATH", help="gemma3-host, to compare tokens with")
    parser.add_argument("--plugin", metavar="PATH", help="the PJRT plugin of --host")
    parser.add_argument("--hf", metavar="PYTHON", help="measure transformers with this Python")
    parser.add_argument("--folder", type=Path, help="for the bundles; a temporary one by default")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write everything measured")
    options = parser.parse_args()
    scale = DRY if options.tiny else FULL
    sizes = tuple(options.sizes.split(",")) if options.sizes else scale.sizes
    started = time.perf_counter()
    with tempfile.TemporaryDirectory() as scratch:
        failures, results = _run_all(options, scale, sizes, options.folder or Path(scratch))
    results.machine["seconds"] = round(time.perf_counter() - started)
    print_tables(results)
    for failure in failures:
        print(f"FAILED: {failure}")
    if options.json:
        options.json.write_text(results.to_json())
    sys.exit(1 if failures else 0)


def _run_all(
    options: argparse.Namespace, scale: Scale, sizes: tuple[str, ...], folder: Path
) -> tuple[list[str], Results]:
    failures: list[str] = []
    bundles = {size: _export(size, options.platform, scale, folder) for size in sizes}
    first = bundles[sizes[0]]
    commands = [[command("gemma3-run")]]
    if options.host:
        plugin = ["--plugin", options.plugin] if options.plugin else []
        commands.append([options.host, *plugin])
    failures += _compare_tokens(first, options.platform, commands)
    device = jax.devices(options.platform if options.platform != "cuda" else "gpu")[0]
    results = Results({"device": device.device_kind, "jax": jax.__version__})
    results.facts["bytes a token"] = {}
    with jax.default_device(device):
        for name, amount, work in _limits(scale):
            for _ in range(ROUNDS):
                seconds = _time(work)
                results.add(Case("limit", name, "", 0, 0), amount / seconds)
        for size, path in bundles.items():
            _measure(results, size, path, options.platform, scale)
        step = plain_jax.plain_decode(Bundle.open(first), scale.prompt, scale.cache)
        _time(step)
        for _ in range(ROUNDS):
            case = Case("decode", plain_jax.LABEL, sizes[0], 1, scale.prompt)
            results.add(case, 1 / _time(step))
    if options.hf:
        _measure_hf(results, options, first, sizes[0], scale)
    return failures, results


def _export(size: str, platform: str, scale: Scale, folder: Path) -> Path:
    """A bundle for the device and for the CPU, to compare with."""
    out, source = folder / f"bundle-{size}", folder / f"checkpoint-{size}"
    arguments = [
        "--mesh", "1x1", "--platform", ",".join(dict.fromkeys((platform, "cpu"))),
        "--batch", f"1,{scale.batch}", "--prefill", str(scale.prompt), "--cache", str(scale.cache),
        "--out", str(out), "--force",
    ]  # fmt: skip
    if size != "270m":
        config = TINY if size == "tiny" else PUBLISHED_SIZES[size]
        arguments += ["--checkpoint", str(write_random_checkpoint(config, source))]
    run([command("gemma3-export"), *arguments], timeout=600)
    shutil.rmtree(source, ignore_errors=True)
    return out


def _compare_tokens(bundle: Path, platform: str, commands: list[list[str]]) -> list[str]:
    """What is wrong with the tokens of the device, by command; empty when they are the CPU's."""
    tokens = ",".join(str(2 + 7 * i % 500) for i in range(12))
    flags = [
        str(bundle), "--tokens", tokens, "--max-new-tokens", str(NEW_TOKENS), "--ignore-eos",
        "--logprobs", "2", "--json",
    ]  # fmt: skip

    def ask(start: list[str], where: str) -> dict:
        return json.loads(run([*start, *flags, "--platform", where], timeout=300).stdout)

    expected = ask([command("gemma3-run")], "cpu")
    failures = []
    for start in commands:
        found = ask(start, platform)
        problem = differs(expected, found)
        if problem:
            failures.append(f"{Path(start[0]).name} on {platform}: {problem}")
    return failures


def differs(expected: dict, found: dict) -> str | None:
    """How two outputs of `gemma3-run --logprobs 2 --json` differ beyond rounding, if they do.

    Where the first token differs, both must have thought the two likeliest nearly equal; what
    follows is another text.
    """
    pairs = zip(expected["tokens"], found["tokens"], strict=True)
    for at, (ours, theirs) in enumerate(pairs):
        if ours != theirs:
            (_, best), (_, second) = expected["logprobs"][at]
            if best - second > ROUNDING:
                return f"token {at} is {theirs}, expected {ours} by {best - second:.2f} nats"
            return None
    return None


def _limits(scale: Scale) -> list[tuple[str, float, Callable[[], object]]]:
    """Name, bytes or operations, and work of the device's own rates."""
    data = jnp.ones((scale.read_bytes // 4096, 1024), jnp.float32)
    row = jnp.ones((1, 1024), jnp.float32)
    square = jnp.ones((scale.square, scale.square), jnp.bfloat16)
    read, product = jax.jit(lambda x, w: x @ w.T), jax.jit(jnp.matmul)
    return [
        ("memory read", data.nbytes, lambda: read(row, data)),
        ("bfloat16 product", 2 * scale.square**3, lambda: product(square, square)),
    ]


def _time(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    jax.block_until_ready(work())
    return time.perf_counter() - started


def _measure(results: Results, size: str, path: Path, platform: str, scale: Scale) -> None:
    measured = Measured(path, platform)
    results.facts["bytes a token"][size] = measured.weight_bytes
    cases = [(1, scale.prompt), (scale.batch, scale.prompt)]
    results.facts[f"compile {size}"] = measured.compile(cases, cases)
    for _ in range(ROUNDS):
        for rows, context in cases:
            results.add(Case("decode", OURS, size, rows, context), measured.decode(rows, context))
            results.add(Case("prefill", OURS, size, rows, context), measured.prefill(rows, context))


def _measure_hf(
    results: Results, options: argparse.Namespace, bundle: Path, size: str, scale: Scale
) -> None:
    try:
        found = hugging_face.measure(options.hf, bundle, options.platform, scale.prompt, 16)
    except (OSError, RuntimeError, subprocess.TimeoutExpired) as error:
        print(f"transformers could not be measured: {error}", file=sys.stderr)
        return
    for what in ("prefill", "decode"):
        results.add(Case(what, hugging_face.LABEL, size, 1, scale.prompt), found[what])


if __name__ == "__main__":
    main()
