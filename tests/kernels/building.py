"""How tests compile what they need of the kernels."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterable
from pathlib import Path

import jax

SOURCES = Path(__file__).resolve().parents[2] / "runtime" / "native" / "kernels"


def compiler(*arguments: str | Path) -> None:
    """Run the C++ compiler."""
    flags = ["-std=c++17", "-O2", "-fPIC", "-Wno-psabi", "-I", SOURCES]
    command = [os.environ.get("CXX", "g++"), *flags, "-isystem", jax.ffi.include_dir(), *arguments]
    subprocess.run(list(map(str, command)), check=True)


def build(output: Path, *sources: Path, flags: Iterable[str] = ()) -> Path:
    """A program, or with `-shared` a library, of sources and objects."""
    compiler(*flags, *sources, "-o", output)
    return output
