"""Bundles for the parity tests, made by the real export in this process."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from gemma3_export.export.checkpoint import demo_checkpoint
from gemma3_export.export.options import ExportOptions, parse_mesh
from gemma3_export.export.pipeline import export

REAL_MESHES = ("1x1", "2x4")
LONG_MESHES = ("8x1", "1x8")
"""Of the real weights too, but only in `make soak`."""


def quiet(what: str, done: int, total: int) -> None:
    """Progress that nobody reads."""


def options(checkpoint: Path, out: Path, *meshes: str) -> ExportOptions:
    """Small buckets in float32 on the CPU; change what matters with `dataclasses.replace`."""
    return ExportOptions(
        meshes=tuple(map(parse_mesh, meshes or ("1x1",))),
        batch=(1,),
        prefill=(16, 48),
        cache=(96,),
        generate=8,
        platforms=("cpu",),
        dtype="float32",
        jobs=1,
        out=out,
        force=False,
        checkpoint=checkpoint,
        abstract=None,
    )


def make_bundle(checkpoint: Path, out: Path, *meshes: str, **changes) -> Path:
    """Export `checkpoint` for the meshes, with the options that `changes` replaces."""
    return export(dataclasses.replace(options(checkpoint, out, *meshes), **changes), quiet).out


def make_real_bundle(out: Path, meshes: tuple[str, ...] = REAL_MESHES) -> Path:
    """The real Gemma 3 270M in float32 for these meshes, batches 1 and 8; 1.1 GB."""
    return make_bundle(
        demo_checkpoint(), out, *meshes, batch=(1, 8), prefill=(32, 128, 512), cache=(2048,),
        generate=64, jobs=2,
    )  # fmt: skip
