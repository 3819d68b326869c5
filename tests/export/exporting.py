"""Exports in processes of their own, here or as on another machine, and what they leave."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[2]
SIZES = ("--prefill", "8", "--cache", "24", "--generate", "4", "--dtype", "float32")
_PACKAGES = ("model", "export", "artifacts", "runtime")
_ELSEWHERE = """
import os, time
clock = time.time
os.umask(0o077)
time.time = lambda: clock() - 1e8  # three years ago
os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
import gemma3_export.export.lower as lowering
assert lowering.__file__.startswith(os.environ["PYTHONPATH"]), lowering.__file__
"""
"""Run before an export, to make another time and another machine of it."""


def start_export(
    checkpoint: Path, cwd: Path, *flags: str, before: str = "", **variables: str
) -> subprocess.Popen:
    """The real command in a process of its own, as a shell starts it: one device, no flags.

    Of `SIZES` and `flags`, which follow them, the later ones hold.
    """
    environment = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"}
    command = f"{before}\nfrom gemma3_export.export.cli import main; main()"
    cwd.mkdir(parents=True, exist_ok=True)
    return subprocess.Popen(
        [sys.executable, "-c", command, "--checkpoint", str(checkpoint), *SIZES, *flags],
        cwd=cwd, env=environment | {"PYTHONHASHSEED": "0"} | variables, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip


def start_elsewhere(checkpoint: Path, folder: Path, *flags: str) -> subprocess.Popen:
    """The same as far as can be from here, in `folder`/down.

    Another folder, hash seed, day, time zone, language and umask; a processor of one core without
    AVX for the C library, numpy and XLA; a checkout in another place, whose lines lie lower.
    """
    copy = shutil.copytree(checkpoint, folder / "elsewhere" / checkpoint.name)
    vectors = np.show_config(mode="dicts")["SIMD Extensions"]["found"]  # pyright: ignore
    return start_export(
        Path(copy), folder / "down", *flags, before=_ELSEWHERE,
        PYTHONHASHSEED="4711", TZ="Asia/Tokyo", LC_ALL="C",
        PYTHONPATH=str(_moved_sources(folder / "sources")),
        GLIBC_TUNABLES="glibc.cpu.hwcaps=-AVX,-AVX2,-AVX512F,-FMA,-FMA4",
        NPY_DISABLE_CPU_FEATURES=" ".join(vectors), XLA_FLAGS="--xla_cpu_max_isa=SSE4_2",
    )  # fmt: skip


def _moved_sources(folder: Path) -> Path:
    """A copy of the package with every line three lower; the folder to import it from."""
    for package in _PACKAGES:
        for source in (ROOT / package).rglob("*.py"):
            copy = folder / "gemma3_export" / source.relative_to(ROOT)
            copy.parent.mkdir(parents=True, exist_ok=True)
            copy.write_text("# moved\n\n\n" + source.read_text())
    return folder


def contents(folder: Path) -> dict[str, str]:
    """SHA-256 of every file, by its path in the folder."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }
