"""Fuzzing of every reader, each in a process of its own."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Fuzzed:
    """What became of one target: inputs read, and the reason of the first that broke it."""

    name: str
    inputs: int
    fault: str


def fuzz(name: str, runs: int, seed: int) -> Fuzzed:
    """Feed target `name` with `runs` inputs."""
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else None) as folder:
        scratch = Path(folder) / "scratch"
        scratch.mkdir()
        command = [
            sys.executable, "-m", "tests.soak.fuzz", name, f"-runs={runs}", f"-seed={seed}",
            f"-artifact_prefix={folder}/", f"{folder}/corpus",
        ]  # fmt: skip
        done = subprocess.run(
            command, cwd=ROOT, capture_output=True, text=True, check=False,
            env=os.environ | {"SOAK_SCRATCH": str(scratch)},
        )  # fmt: skip
        said = done.stderr + done.stdout
        counts = [int(found) for found in re.findall(r"^#(\d+)\t", said, re.MULTILINE)]
        if done.returncode == 0 and "DONE" in said:
            return Fuzzed(name, max(counts, default=0), "")
        crashes = [path for path in Path(folder).iterdir() if path.is_file()]
        kept = [shutil.move(path, ROOT / "build" / f"{name}-{path.name}") for path in crashes]
    lines = [line for line in said.splitlines() if re.search(r"Error|ERROR|assert", line)]
    where = ", ".join(map(str, kept)) or "no input kept"
    return Fuzzed(name, max(counts, default=0), f"{(lines or ['ended'])[-1][:200]} ({where})")
