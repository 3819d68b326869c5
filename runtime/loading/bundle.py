"""What a bundle tells before JAX is imported: whether it can run, its meshes, its tokenizer."""

from __future__ import annotations

import contextlib
import threading
from pathlib import Path

from ...artifacts.bundle import Bundle
from ...artifacts.errors import ArtifactError, UsageError, argument
from ...artifacts.manifest import MeshRecord
from ...artifacts.paths import MANIFEST
from ..text.tokenizer import Tokenizer


def choose_mesh(
    bundle: Bundle, name: str | None, platform: str | None = None, devices: int | None = None
) -> MeshRecord:
    """The mesh called `name`, or where none is named the one for the devices that are here.

    On an accelerator, of which there are `devices`, that is the largest mesh that they are enough
    for, and the smallest where they are enough for none. On CPU, and where the platform is not
    known yet, it is the first mesh of one device, else the first: further devices are virtual
    there and share its cores. Raises UsageError when there is no such mesh.
    """
    if name is not None:
        return bundle.mesh(name)
    manifest = bundle.manifest
    if not manifest.meshes:
        raise ArtifactError(f"{bundle.root / MANIFEST} names no mesh: export the bundle again")
    lowered = {program.mesh for program in manifest.programs if program.platform == platform}
    records = [m for m in manifest.meshes if platform is None or m.mesh.name in lowered]
    records = records or list(manifest.meshes)
    if platform in (None, "cpu") or devices is None:
        return next((r for r in records if r.mesh.devices == 1), records[0])
    fitting = [record for record in records if record.mesh.devices <= devices]
    if not fitting:
        return min(records, key=lambda record: record.mesh.devices)
    return max(fitting, key=lambda record: record.mesh.devices)


def refuse_abstract(bundle: Bundle) -> None:
    """Raise UsageError for a bundle without weights."""
    if bundle.manifest.abstract:
        raise UsageError(
            f"{bundle.root} cannot be run: it was exported with --abstract and has programs but "
            "no weights; export it again with --checkpoint"
        )


def open_tokenizer(bundle: Bundle) -> Tokenizer:
    """The bundle's tokenizer; raises ArtifactError when it has none or an unreadable one."""
    record = bundle.manifest.tokenizer
    if record is None:
        raise ArtifactError(
            f"{bundle.root / MANIFEST} names no tokenizer: pass "
            f"{argument('token ids', '--tokens and --json')}, or export "
            "from a checkpoint that has a tokenizer"
        )
    path, bos = bundle.path(record.path), bundle.manifest.model.bos_token_id
    with _READING:
        content = bundle.read(record.path)
        key = (path, bos, bundle.digest(record.path))
        if _LAST_TOKENIZER.get(key) is None:
            _LAST_TOKENIZER.clear()
            _LAST_TOKENIZER[key] = Tokenizer(content, path, bos)
        return _LAST_TOKENIZER[key]


def read_tokenizer_ahead(bundle: Bundle) -> None:
    """Begin `open_tokenizer` in a thread; what it finds wrong is said to who asks for it."""

    def read() -> None:
        with contextlib.suppress(ArtifactError, OSError):
            open_tokenizer(bundle)

    threading.Thread(target=read, daemon=True).start()


_READING = threading.Lock()
_LAST_TOKENIZER: dict[tuple[Path, int, str], Tokenizer] = {}
"""By path, bos token and digest; kept, for a command asks for it twice."""
