"""The goldens of a bundle that is being written: given in a file, or recorded by running it.

Running is the runtime's business and happens in a process of its own, which imports no model
code: the bundle is tried as any host would use it before it is put in place.
"""

from __future__ import annotations

import dataclasses
import os
import sys
from pathlib import Path

from ..artifacts.codec import decode, parse_json
from ..artifacts.errors import EXIT_USAGE, UsageError
from ..artifacts.goldens import (
    GOLDENS,
    Goldens,
    check_goldens,
    format_goldens,
    parse_goldens,
)
from ..artifacts.interruption import run_child
from ..artifacts.manifest import Manifest
from ..artifacts.writer import BundleWriter
from .arguments import WITH_GOLDENS

RUN = "run"
_RECORDER = "gemma3_export.runtime.checks.goldens"


def check_wanted(wanted: str | None, abstract: bool) -> None:
    """Refuse a `--goldens` that cannot be had, before any work is done.

    Raises:
        UsageError: no such file, or nothing to run.
    """
    if wanted == RUN and abstract:
        raise UsageError(
            f"{WITH_GOLDENS} run: expected weights to run with, got --abstract; leave one of them "
            "out"
        )
    if wanted not in (None, RUN) and not Path(wanted).is_file():
        raise UsageError(
            f"{WITH_GOLDENS}: expected run or a file of goldens, got {wanted}, which is not a "
            f"file; name one, or pass {WITH_GOLDENS} run"
        )


def add_goldens(writer: BundleWriter, manifest: Manifest, wanted: str | None) -> Manifest:
    """Write goldens.json if any are wanted; returns the manifest that names it.

    Raises:
        UsageError: they cannot be recorded on this machine.
        ArtifactError: it is not a file, or not of this model.
    """
    if wanted is None:
        return manifest
    recorded = _record(writer, manifest) if wanted == RUN else None
    goldens = recorded or parse_goldens(Path(wanted), manifest)
    writer.add_file(GOLDENS, format_goldens(goldens))
    return dataclasses.replace(manifest, goldens=GOLDENS)


def _record(writer: BundleWriter, manifest: Manifest) -> Goldens:
    """What the programs of the smallest mesh give on this machine."""
    mesh = min(manifest.meshes, key=lambda record: record.mesh.devices).mesh.name
    platform = "cpu" if "cpu" in manifest.platforms else manifest.platforms[0]
    environment = {k: v for k, v in os.environ.items() if k != "JAX_PLATFORMS"}
    with writer.draft(manifest) as folder:
        run = run_child([sys.executable, "-m", _RECORDER, str(folder), mesh, platform], environment)
    if run.returncode:
        lines = run.stderr.decode(errors="replace").strip().splitlines() or ["no reason given"]
        if run.returncode != EXIT_USAGE:
            lines = [f"the process ended with {run.returncode}: {lines[-1]}"]
        raise UsageError(
            f"{WITH_GOLDENS} run: cannot run mesh {mesh} on {platform} here: {lines[-1]}; give "
            "goldens in a file, or leave the option out"
        )
    where = f"{_RECORDER} output"
    goldens = decode(Goldens, parse_json(run.stdout, where), where)
    check_goldens(goldens, manifest, where)
    return goldens
