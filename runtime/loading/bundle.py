"""What a bundle tells before JAX is imported: whether it can run, its meshes, its tokenizer."""

from __future__ import annotations

import contextlib
import threading
from pathlib import Path

from ...artifacts.bundle import Bundle
from ...artifacts.errors import ArtifactError, UsageError
from ...artifacts.manifest import MeshRecord
from ...artifacts.paths import MANIFEST
from ..text.tokenizer import Tokenizer


def choose_mesh(bundle: Bundle, name: str | None) -> MeshRecord:
    """The mesh called `name`, by default the bundle's first; UsageError when there is none."""
    if name is not None:
        return bundle.mesh(name)
    if not bundle.manifest.meshes:
        raise ArtifactError(f"{bundle.root / MANIFEST} names no mesh: export the bundle again")
    return bundle.manifest.meshes[0]


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
            f"{bundle.root / MANIFEST} names no tokenizer: pass --tokens and --json, or export "
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
