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
JAX_VARIABLES = {
    "JAX_ENABLE_X64": "1", "JAX_DEFAULT_MATMUL_PRECISION": "highest",
    "JAX_DEFAULT_PRNG_IMPL": "rbg", "JAX_THREEFRY_PARTITIONABLE": "0",
    "JAX_NUMPY_RANK_PROMOTION": "raise",
    "JAX_NUMPY_DTYPE_PROMOTION": "strict", "JAX_DEFAULT_DTYPE_BITS": "32",
    "JAX_SOFTMAX_CUSTOM_JVP": "1", "JAX_LEGACY_PRNG_KEY": "error", "JAX_RANDOM_SEED_OFFSET": "7",
    "JAX_HIGH_DYNAMIC_RANGE_GUMBEL": "1", "JAX_DEBUG_NANS": "1", "JAX_DISABLE_JIT": "1",
    "JAX_SCAN3": "1", "JAX_USE_SHARDY_PARTITIONER": "0", "JAX_USE_SIMPLIFIED_JAXPR_CONSTANTS": "1",
    "JAX_EXPORT_CALLING_CONVENTION_VERSION": "9", "JAX_TRACEBACK_IN_LOCATIONS_LIMIT": "5",
    "JAX_ERROR_CHECKING_BEHAVIOR_NAN": "raise", "JAX_ERROR_CHECKING_BEHAVIOR_OOB": "raise",
    "JAX_ALLOW_F16_REDUCTIONS": "0", "JAX_THREEFRY_GPU_KERNEL_LOWERING": "1",
}  # fmt: skip
"""What would change a program, or keep it from being lowered, by the environment of the command."""


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
    AVX for the C library, numpy and XLA; a checkout in another place, whose lines lie lower; JAX
    told to compute otherwise.
    """
    copy = shutil.copytree(checkpoint, folder / "elsewhere" / checkpoint.name)
    vectors = np.show_config(mode="dicts")["SIMD Extensions"]["found"]  # pyright: ignore
    return start_export(
        Path(copy), folder / "down", *flags, before=_ELSEWHERE,
        PYTHONHASHSEED="4711", TZ="Asia/Tokyo", LC_ALL="C",
        PYTHONPATH=str(_moved_sources(folder / "sources")),
        GLIBC_TUNABLES="glibc.cpu.hwcaps=-AVX,-AVX2,-AVX512F,-FMA,-FMA4",
        NPY_DISABLE_CPU_FEATURES=" ".join(vectors),
        XLA_FLAGS="--xla_cpu_max_isa=SSE4_2 --xla_cpu_enable_fast_math=true "
        "--xla_force_host_platform_device_count=3", **JAX_VARIABLES,
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
