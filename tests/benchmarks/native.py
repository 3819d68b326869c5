"""gemma3-host against gemma3-run and llama.cpp: cold start, decode, memory, on the same weights.

Every run is a process of its own, cold but for the page cache; candidates take turns, so that
drift of the machine hits all alike. `make native` must have been run. The bundle and the GGUF
file are kept in build/bench.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import click
from gemma3_export.artifacts.bundle import Bundle
from gemma3_export.export.checkpoint.demo import demo_checkpoint
from peers.gguf_files import write_gguf_files

ROOT = Path(__file__).parents[2]
BIN = Path(sys.prefix) / "bin"
NATIVE = ROOT / "build" / "native"
WORK = ROOT / "build" / "bench"
PROMPT, NEW, CACHE = 512, 129, 1024
PORTABLE = ", portable"
COLUMNS = ("first_token_s", "prefill_tok_s", "decode_tok_s", "peak_rss_bytes")


def make_bundle(out: Path) -> Path:
    """The real 270M in bfloat16 for one device, with kernels and without, unless it is there."""
    if not (out / "manifest.json").exists():
        sizes = ["--batch", "1", "--prefill", PROMPT, "--cache", CACHE, "--generate", "32"]
        command = [BIN / "gemma3-export", "--mesh", "1x1", "--kernels", *sizes, "--out", out]
        subprocess.run(list(map(str, command)), check=True, capture_output=True)
    return out


def commands(bundle: Path, model: Path) -> dict[str, list[str]]:
    """What is run: each prints one JSON object with COLUMNS, at its end or under `stats`.

    Those whose name ends with PORTABLE are to do without kernels.
    """
    tokens = [2, *range(1000, 1000 + PROMPT - 1)]
    prompt = WORK / "prompt.json"
    prompt.write_text(json.dumps(tokens))
    request = [
        str(bundle), "--tokens", ",".join(map(str, tokens)), "--max-new-tokens", str(NEW),
        "--ignore-eos", "--json",
    ]  # fmt: skip
    host = str(NATIVE / "bin" / "gemma3-host")
    llama = str(ROOT / "tests" / "benchmarks" / "llama_cold.py")
    ours = {
        "gemma3-host, compiling": [host, *request, "--no-cache"],
        "gemma3-host": [host, *request],
        "gemma3-run, compiling": [str(BIN / "gemma3-run"), *request, "--no-cache"],
        "gemma3-run": [str(BIN / "gemma3-run"), *request],
    }
    portable = {name + PORTABLE: command for name, command in ours.items()}
    peer = [sys.executable, llama, str(model), str(prompt), str(NEW - 1)]
    return {**ours, **portable, "llama.cpp": peer}


def environment(name: str) -> dict[str, str]:
    """What the candidate of this name runs in."""
    kernels = {"GEMMA3_KERNELS": "none"} if name.endswith(PORTABLE) else {}
    return {**os.environ, "VIRTUAL_ENV": sys.prefix, **kernels}


def measure(name: str, command: list[str]) -> dict[str, float]:
    """The figures of one run."""
    done = subprocess.run(
        command, capture_output=True, text=True, env=environment(name), check=True
    )
    value = json.loads(done.stdout.splitlines()[-1])
    return value.get("stats", value)


def report(runs: dict[str, list[dict[str, float]]], bundle: Path) -> None:
    """Print medians, and what the limits were."""
    print(f"Gemma 3 270M, bfloat16, {PROMPT} tokens in, {NEW} out, CPU, mesh 1x1")
    print(f"{'':36} {'first token':>12} {'prefill':>9} {'decode':>9} {'peak memory':>12}")
    for name, results in runs.items():
        first, prefill, decode, rss = (
            statistics.median(result[column] for result in results) for column in COLUMNS
        )
        print(f"{name:36} {first:10.2f} s {prefill:9.1f} {decode:9.1f} {rss / 1e6:9.0f} MB")
    manifest = Bundle.open(bundle).manifest
    weights = sum(weight.nbytes for weight in manifest.weights)
    cache = manifest.caches[0].bytes_per_row
    print(f"limit of memory: 1.15 x {weights / 1e6:.0f} MB of weights + {cache / 1e6:.0f} MB of "
          f"cache + 250 MB = {(1.15 * weights + cache) / 1e6 + 250:.0f} MB")  # fmt: skip
    library = (NATIVE / "lib" / "libgemma3.so").resolve()
    print(f"libgemma3.so: {library.stat().st_size / 1e6:.2f} MB")
    names = ("jaxlib", "xla_cpu_pjrt", "lammps-jax-pjrt-cpu", "xllamacpp")
    print(", ".join(f"{name} {version(name)}" for name in names))


@click.command()
@click.option("--repeats", default=3, show_default=True, help="Runs of each candidate.")
def main(repeats: int) -> None:
    """Make what is missing, measure in turn, print."""
    WORK.mkdir(parents=True, exist_ok=True)
    bundle = make_bundle(WORK / "native-kernels")
    model = write_gguf_files(demo_checkpoint(), WORK / "gguf")["BF16"]
    candidates = commands(bundle, model)
    for name in ("gemma3-host", "gemma3-run", f"gemma3-host{PORTABLE}", f"gemma3-run{PORTABLE}"):
        measure(name, candidates[name])  # keeps what it compiles
    runs: dict[str, list[dict[str, float]]] = {name: [] for name in candidates}
    for _ in range(repeats):
        for name, command in candidates.items():
            runs[name].append(measure(name, command))
            print(f"{name}: {runs[name][-1]}", file=sys.stderr, flush=True)
    report(runs, bundle)


if __name__ == "__main__":
    main()
