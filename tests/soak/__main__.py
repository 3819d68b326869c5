"""`make soak`: everything at full length, and its figures into RESULTS.md.

`python -m tests.soak [ITEM...]` runs some items; the rows of the others stay as they are.
"""

from __future__ import annotations

import datetime
import importlib.metadata
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from ..goldens.tiny import write_checkpoint
from ..native.sanitizers import address_build, thread_build
from ..native.test_sanitized import fuzz as fuzz_kernels
from . import faults
from .abuse import fuzz

RESULTS = Path(__file__).with_name("RESULTS.md")
ROOT = Path(__file__).resolve().parents[2]
SEED = 20261122
KILLS, FILLS = 100, 20
TARGETS = (
    "manifest", "weights", "goldens", "signature", "compiled", "config", "safetensors", "index",
    "gguf", "tokenizer_json", "tokenizer_model", "image", "array",
)  # fmt: skip
FUZZ_EACH = 5000
KERNEL_CALLS, KERNEL_SEEDS = 20_000, 5
TOKENS, SESSIONS = 100_000, 2000
MOST_MEMORY, MOST_COST = 1.02, 1.10
_LONG = ("--mesh", "1x1", "--prefill", "8", "--dtype", "float32", "--jobs", "1")


def kills(folder: Path) -> str:
    """Exports killed at random moments."""
    tally = faults.kill_exports(write_checkpoint("default", folder / "c"), folder, KILLS, SEED)
    return (
        f"{tally.trials} kills, {tally.interrupted} before the end: nothing {tally.nothing}, "
        f"old bundle {tally.old}, new bundle {tally.new}; every fifth was followed by an export, "
        "which worked"
    )


def disks(folder: Path) -> str:
    """Disks that fill up at random moments."""
    if os.geteuid() != 0:
        sys.exit("error: filling a disk needs one of its own: run make soak as root")
    tally = faults.fill_disks(write_checkpoint("default", folder / "c"), folder, FILLS, SEED)
    return (
        f"{tally.trials} full disks, {tally.interrupted} before the end: nothing {tally.nothing}, "
        f"old bundle {tally.old}, new bundle {tally.new}; every export afterwards worked"
    )


def races(folder: Path) -> str:
    """Two exports to one folder."""
    checkpoint = write_checkpoint("default", folder / "c")
    for trial in range(10):
        (folder / str(trial)).mkdir()
        found = faults.race(checkpoint, folder / str(trial))
        assert found == [0, 2], found
    return "10 races: one export wins, the other exits with status 2"


def abuse(folder: Path) -> str:
    """Coverage-guided fuzzing of every reader."""
    (ROOT / "build").mkdir(exist_ok=True)
    found = [fuzz(name, FUZZ_EACH, SEED) for name in TARGETS]
    broken = [f"{one.name}: {one.fault}" for one in found if one.fault]
    assert not broken, broken
    total = sum(one.inputs for one in found)
    return (
        f"{total:,} inputs to {len(found)} readers: no fault, none over 5 s, none over 500 MB "
        f"({', '.join(TARGETS)})"
    )


def kernels(folder: Path) -> str:
    """Calls of the C++ kernels as hostile programs would make them, under sanitizers."""
    for seed in range(SEED, SEED + KERNEL_SEEDS):
        fuzz_kernels(address_build(), seed, KERNEL_CALLS)
    fuzz_kernels(thread_build(), SEED, KERNEL_CALLS)
    return (
        f"{KERNEL_CALLS * KERNEL_SEEDS:,} hostile calls of 4 kernels with the address and undefined"
        f" behaviour sanitizers, {KERNEL_CALLS:,} with the thread sanitizer: each answered"
    )


def endurance(folder: Path) -> str:
    """One long session and many short ones.

    The long one is of a model whose layers are all rings, which wrap around thousands of times;
    a global layer of as many slots would only make each token slower.
    """
    ordinary = write_checkpoint("default", folder / "ordinary")
    rings = write_checkpoint("default", folder / "rings")
    config = json.loads((rings / "config.json").read_text())
    config["sliding_window_pattern"] = config["num_hidden_layers"] + 1
    config["max_position_embeddings"] = TOKENS + 256
    (rings / "config.json").write_text(json.dumps(config))
    long = _endure(rings, folder / "long", TOKENS + 256, "one_session", TOKENS)
    many = _endure(ordinary, folder / "many", 64, "many_sessions", SESSIONS)
    return f"{TOKENS:,} tokens in one session: {long}; {SESSIONS:,} sessions: {many}"


def _endure(checkpoint: Path, out: Path, cache: int, stretch: str, count: int) -> str:
    """Export, run one stretch in a process of its own, and hold its figures to the limits."""
    command = "from gemma3_export.export.cli import main; main()"
    sizes = ("--cache", str(cache), "--generate", str(min(256, cache)))
    flags = ("--checkpoint", checkpoint, "--out", out, *_LONG, *sizes)
    subprocess.run([sys.executable, "-c", command, *flags], check=True, stdout=subprocess.DEVNULL)
    run = subprocess.run(
        [sys.executable, "-m", "tests.soak.endurance", out, stretch, str(count)],
        check=True, capture_output=True, text=True, cwd=ROOT,
    )  # fmt: skip
    found = json.loads(run.stdout)
    said = (
        f"memory x {found['memory']:.3f}, processor time x {found['cost']:.3f}, same tokens at "
        "the end"
    )
    assert found["count"] == count, found
    assert found["same_tokens"], found
    assert found["memory"] <= MOST_MEMORY, found
    assert found["cost"] <= MOST_COST, found
    return said


def tests(folder: Path) -> str:
    """What of the suite is marked soak."""
    command = (sys.executable, "-m", "pytest", "-q", "-m", "soak", "-n", "2")
    done = subprocess.run(
        [*command, f"--basetemp={folder / 'pytest'}"],
        check=False, stdout=subprocess.PIPE, text=True, cwd=ROOT,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-20_000:]
    counts = re.sub(r" in [0-9.]+s.*", "", done.stdout.strip().splitlines()[-1])
    return (
        f"{counts}: meshes 8x1 and 1x8 of the real weights, sessions with the thread sanitizer, "
        "2,000 damaged bundles, memory over 500 opened models and 2,000 sessions, the report in a "
        "browser"
    )


ITEMS: dict[str, Callable[[Path], str]] = {
    "kills": kills, "disks": disks, "races": races, "abuse": abuse, "kernels": kernels,
    "endurance": endurance, "tests": tests,
}  # fmt: skip
_HEAD = """# Results of `make soak` and `make compat`

Tiny checkpoints and bundles; seeds are fixed. A row is replaced when its item runs again.

| item | date | result | minutes | with |
|---|---|---|---|---|
"""


def read_rows() -> dict[str, str]:
    """The rows of RESULTS.md by their item."""
    text = RESULTS.read_text() if RESULTS.exists() else ""
    rows = [line for line in text.splitlines() if line.startswith("| ")][1:]
    return {row.split("|")[1].strip(): row for row in rows}


def versions() -> str:
    """What of this environment the figures depend on."""
    names = ("jax", "jaxlib", "numpy")
    found = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in names)
    return f"{found}, Python {platform.python_version()}"


def write_row(item: str, result: str, seconds: float, used: str) -> None:
    """Replace one row of RESULTS.md; `used` are the versions it was found with."""
    where = f"{used}, {os.cpu_count()} cores"
    today = datetime.date.today().isoformat()
    rows = read_rows()
    rows[item] = f"| {item} | {today} | {result} | {seconds / 60:.1f} | {where} |"
    RESULTS.write_text(_HEAD + "\n".join(rows[name] for name in sorted(rows)) + "\n")


def main() -> None:
    """Run the items named on the command line, all without any."""
    names = sys.argv[1:] or list(ITEMS)
    if unknown := [name for name in names if name not in ITEMS]:
        sys.exit(f"error: expected items from {', '.join(ITEMS)}, got {unknown[0]}")
    for name in names:
        folder = Path(tempfile.mkdtemp(prefix="soak-"))
        began = time.monotonic()
        try:
            result = ITEMS[name](folder)
        finally:
            shutil.rmtree(folder, ignore_errors=True)
        write_row(name, result, time.monotonic() - began, versions())
        print(f"{name}: {result}", flush=True)


if __name__ == "__main__":
    main()
