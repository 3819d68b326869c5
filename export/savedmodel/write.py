"""The exporter's side of the SavedModel: what is refused, and the process that writes it."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

from ...artifacts.errors import UsageError
from ...artifacts.interruption import run_child
from ...artifacts.manifest import Manifest, SavedModelRecord
from ...artifacts.memory import return_freed_memory
from ...artifacts.serving.signatures import FOLDER, PLATFORMS, VERSION_FOLDER, signatures
from ...artifacts.writer import BundleWriter
from ..arguments import BATCH, CHECKPOINT, PLATFORM, SAVED_MODEL, SLOTS
from ..options import ExportOptions
from .deployment import deployment_files

_BUILDER = "gemma3_export.export.savedmodel.build"
_LIBRARIES = ("tensorflow", "orbax.export")


def check_saved_model(options: ExportOptions, generates: bool) -> list[str]:
    """Refuse what no SavedModel can be made of, before any work is done; notes for the user.

    Raises:
        UsageError: says which option, what was expected and what would do.
    """
    platforms, batch, slots = options.platforms, options.batch, options.slots
    if options.abstract is not None:
        raise UsageError(
            f"{SAVED_MODEL} needs weights, which --abstract leaves out: pass {CHECKPOINT}"
        )
    if not set(PLATFORMS) & set(platforms):
        raise UsageError(
            f"{SAVED_MODEL}: expected a platform from {','.join(PLATFORMS)}, "
            f"got {PLATFORM} {','.join(platforms)}; add cpu"
        )
    if slots and not generates:
        raise UsageError(
            f"{SLOTS} keeps the caches of growing texts, and this checkpoint grows none; "
            "leave the option out"
        )
    if slots and 1 not in batch:
        raise UsageError(
            f"{SLOTS}: expected 1 among the batch sizes, as a slot is one row, got "
            f"{BATCH} {','.join(map(str, batch))}; add 1"
        )
    for library in _LIBRARIES:
        if not _installed(library):
            raise UsageError(
                f"{SAVED_MODEL} needs {library}, which is not installed: "
                "pip install 'gemma3-export[savedmodel]'"
            )
    sharded = [mesh.name for mesh in options.meshes if mesh.devices > 1]
    if not sharded:
        return []
    return [
        f"the SavedModel is of one device, as TensorFlow ignores how tensors are split; "
        f"{', '.join(sharded)} is for gemma3-run and gemma3-host"
    ]


def _installed(library: str) -> bool:
    try:
        return importlib.util.find_spec(library) is not None
    except ModuleNotFoundError:  # its parent is missing
        return False


def run_builder(root: Path, slots: int) -> subprocess.CompletedProcess[bytes]:
    """Let a process of its own write the SavedModel of the bundle in folder `root`."""
    return run_child(
        [sys.executable, "-m", _BUILDER, str(root), str(slots)],
        # TensorFlow numbers things in the order of sets; the same bytes ask for the same order.
        {**os.environ, "PYTHONHASHSEED": "0"},
    )


def write_saved_model(writer: BundleWriter, manifest: Manifest, slots: int) -> SavedModelRecord:
    """Write the SavedModel and what a server needs beside it, of programs and weights that are
    in the writer's folder already; returns the record for the manifest.
    """
    record = SavedModelRecord(VERSION_FOLDER, 1, slots, signatures(manifest, slots))
    return_freed_memory()  # the builder needs it more
    with writer.draft(manifest) as root:
        process = run_builder(root, slots)
    if process.returncode != 0:
        raise RuntimeError(
            f"writing the SavedModel failed with status {process.returncode}:\n"
            + process.stderr.decode(errors="replace")[-4000:]
        )
    for path in sorted((writer.root / FOLDER).rglob("*")):
        if path.is_file():
            writer.adopt_file(path.relative_to(writer.root).as_posix())
    for name, text in deployment_files(manifest, record).items():
        writer.add_file(str(Path(FOLDER, name).as_posix()), text.encode())
    return record
